//! What `clipsift verify` does with rows on a card, done on this one: its own host code is tried too.

use clipsift::verify::verify_rows;

use super::{Emulator, Placement};

#[test]
fn verify_finds_every_op_over_rows_equal_on_the_emulated_card() {
    let checks = verify_rows(
        &Emulator::new(Placement::End, 3),
        &[(1, 1), (31, 33), (140, 72)],
    )
    .unwrap();
    let missed: Vec<_> = checks
        .iter()
        .filter(|c| !c.passed())
        .map(ToString::to_string)
        .collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert!(
        checks
            .iter()
            .filter(|c| c.bound == 0.0 && c.cases == 3)
            .count()
            == 12
    );
}
