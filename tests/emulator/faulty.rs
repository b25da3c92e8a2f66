//! The emulator itself: small kernels with one fault each, which must be reported, beside good twins, which must pass.

use std::path::{Path, PathBuf};

use clipsift::ops::cuda::{Arg, Backend, Launch};
use half::{bf16, f16};

use super::numbers::{Number, noise, rounded};
use super::{Buffer, Emulator, Placement, both_ways};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator/faulty")
}

fn emulator(placement: Placement) -> Emulator {
    Emulator::over(folder(), placement, 1)
}

fn launch(module: &'static str, function: &'static str, args: Vec<Arg>) -> Launch {
    Launch {
        module,
        function,
        grid: [1, 1, 1],
        block: [64, 1, 1],
        shared_bytes: 512,
        args,
    }
}

fn pointers(emulator: &Emulator, buffers: &[&Buffer]) -> Vec<Arg> {
    let address = |buffer: &&Buffer| Arg::Pointer(emulator.address(buffer));
    buffers.iter().map(address).collect()
}

/// Runs kernel(x, y) over x = 1..=64: y, or the message.
fn over_64(module: &'static str, function: &'static str) -> Result<Vec<f32>, String> {
    let emulator = emulator(Placement::End);
    let x = emulator.buffer(&(1..=64).map(|i| i as f32).collect::<Vec<_>>());
    let y = emulator.empty::<f32>(64);
    let launch = launch(module, function, pointers(&emulator, &[&x, &y]));
    match emulator.launch(&launch) {
        Ok(()) => Ok(emulator.elements(&y)),
        Err(error) => Err(error.to_string()),
    }
}

fn assert_reported(module: &'static str, function: &'static str, parts: &[&str]) {
    let message = over_64(module, function).expect_err(function);
    for part in parts.iter().chain([&function]) {
        assert!(
            message.contains(part),
            "{function}: no {part:?} in: {message}"
        );
    }
}

#[test]
fn kernels_without_a_fault_pass_and_compute_what_they_should() {
    let of = |f: fn(usize) -> f32| (0..64).map(f).collect::<Vec<f32>>();
    let good = |module, function| over_64(module, function).unwrap();
    assert_eq!(good("shared", "reverse_good"), of(|i| 64.0 - i as f32));
    assert_eq!(
        good("shared", "twice_good"),
        of(|i| 2.0 * (((i + 32) % 64) as f32 + 1.0))
    );
    assert_eq!(
        good("shared", "neighbours_good"),
        of(|i| (i ^ 1) as f32 + 1.0)
    );
    assert_eq!(good("shared", "count_good"), of(|_| 64.0));
    assert_eq!(good("shared", "two_arrays_good"), of(|i| 64.0 - i as f32));
    assert_eq!(good("shared", "copied_good"), of(|i| 64.0 - i as f32));
    let two_of_four = |i: usize| {
        if i % 4 < 2 {
            (i % 32) as f32 + 1.0
        } else {
            0.0
        }
    };
    assert_eq!(good("shared", "two_groups_good"), of(two_of_four));
    // Lanes 0 and 31 are where a shuffle leaves the warp: lane 31 keeps what shuffle_up gave it, lane 30's.
    let moved = |i: usize| i as f32 + if i % 32 == 31 { 0.0 } else { 1.0 } + 192.0 + 31.0;
    assert_eq!(good("order", "shuffles_good"), of(moved));
}

#[test]
fn conflicting_accesses_to_shared_memory_are_reported() {
    let order = "nothing orders the two";
    assert_reported("shared", "reverse_without_barrier", &["tile[", "thread ("]);
    assert_reported("shared", "twice_without_second_barrier", &["tile[", order]);
    assert_reported("shared", "neighbours_without_sync_warp", &["tile["]);
    assert_reported("shared", "reverse_with_sync_warp_only", &["tile["]);
    assert_reported(
        "shared",
        "one_place",
        &["last[0] is written", "has written it", order],
    );
    assert_reported("shared", "count_without_barrier", &["positive[0]", order]);
    assert_reported(
        "shared",
        "never_written",
        &["tile[5] is read, but nobody has written it"],
    );
    assert_reported(
        "shared",
        "two_arrays_past_the_first",
        &["outside of the array"],
    );
}

#[test]
fn asynchronous_copies_that_nobody_waited_for_are_reported() {
    let under_way = "a copy is under way";
    assert_reported("shared", "copied_without_commit", &[under_way]);
    assert_reported("shared", "copied_without_wait", &[under_way]);
    assert_reported("shared", "copied_without_barrier", &["tile["]);
    assert_reported("shared", "two_groups_second_too_early", &[under_way]);
}

#[test]
fn barriers_and_warp_instructions_that_not_all_come_to_are_reported() {
    assert_reported(
        "order",
        "barrier_in_a_branch",
        &["sync_threads (order.cu:6)", "has ended"],
    );
    assert_reported(
        "order",
        "barrier_after_return",
        &["sync_threads (order.cu:13)", "has ended"],
    );
    assert_reported("order", "two_barriers", &["order.cu:20", "order.cu:22"]);
    assert_reported(
        "order",
        "shuffle_in_a_branch",
        &["shuffle_xor (order.cu:29)", "has ended"],
    );
    assert_reported(
        "order",
        "shuffle_against_barrier",
        &["shuffle_xor", "sync_threads"],
    );
}

/// Runs kernel(x, y, n) over 64 elements of x and n of y.
fn over_memory(placement: Placement, function: &'static str, n: usize) -> Result<Vec<f32>, String> {
    let emulator = emulator(placement);
    let x = emulator.buffer(&[1f32; 64]);
    let y = emulator.empty::<f32>(n);
    let mut args = pointers(&emulator, &[&x, &y]);
    args.push(Arg::I64(n as i64));
    match emulator.launch(&launch("memory", function, args)) {
        Ok(()) => Ok(emulator.elements(&y)),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn global_memory_out_of_bounds_is_an_error_with_kernel_thread_and_buffer() {
    use Placement::{End, Start};
    for n in [64, 61, 33, 1] {
        assert_eq!(over_memory(End, "copy_good", n).unwrap(), vec![1.0; n]);
        assert_eq!(over_memory(Start, "copy_good", n).unwrap(), vec![1.0; n]);
    }
    let past = over_memory(End, "copy_past_the_end", 20).unwrap_err();
    assert!(
        past.contains("past the end of a buffer of 80 bytes"),
        "{past}"
    );
    // Within the 15 bytes before the guard page, and far from it at the other placement, writes are found afterwards.
    let near = over_memory(End, "copy_past_the_end", 61).unwrap_err();
    assert!(
        near.contains("past the end of a buffer of 244 bytes"),
        "{near}"
    );
    let far = over_memory(Start, "copy_past_the_end", 33).unwrap_err();
    assert!(far.contains("a write 0 bytes past the end"), "{far}");

    let read = over_memory(End, "read_past_the_end", 64).unwrap_err();
    assert!(
        read.contains("0 bytes past the end of a buffer of 256 bytes"),
        "{read}"
    );
    let before = over_memory(Start, "read_before_the_start", 64).unwrap_err();
    assert!(
        before.contains("4 bytes before a buffer of 256 bytes"),
        "{before}"
    );
    let misaligned = over_memory(End, "misaligned_pack", 64).unwrap_err();
    assert!(misaligned.contains("misaligned"), "{misaligned}");
    let divided = over_memory(End, "division_by_zero", 64).unwrap_err();
    assert!(divided.contains("division by zero"), "{divided}");
    let deep = over_memory(End, "endless_recursion", 64).unwrap_err();
    assert!(deep.contains("its stack is full"), "{deep}");
    // After all these faults, kernels still run.
    assert_eq!(over_memory(End, "copy_good", 64).unwrap(), vec![1.0; 64]);
}

#[test]
fn an_output_that_is_not_written_shows_as_nan() {
    let y = over_memory(Placement::End, "all_but_the_last", 64).unwrap();
    assert!(y[..63].iter().all(|y| *y == 1.0));
    assert!(y[63].is_nan());
}

#[test]
fn arguments_of_other_types_or_another_number_are_refused() {
    let emulator = emulator(Placement::End);
    let (x, y) = (emulator.buffer(&[1f32; 64]), emulator.empty::<f32>(64));
    let mut args = pointers(&emulator, &[&x, &y]);
    args.extend([Arg::I64(-3), Arg::I32(-5), Arg::F32(0.5), Arg::F64(0.25)]);
    let good = launch("memory", "all_types", args.clone());
    emulator.launch(&good).unwrap();
    assert_eq!(
        emulator.elements::<f32>(&y),
        vec![1.0 - 3.0 - 5.0 + 0.75; 64]
    );

    for (at, wrong) in [
        (0, Arg::I64(0)),
        (2, Arg::I32(0)),
        (3, Arg::I64(0)),
        (4, Arg::F64(0.0)),
        (5, Arg::F32(0.0)),
    ] {
        let mut args = args.clone();
        args[at] = wrong;
        let message = emulator
            .launch(&Launch {
                args,
                ..good.clone()
            })
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("parameters pplifd, arguments "),
            "{message}"
        );
    }
    let fewer = Launch {
        args: args[..5].to_vec(),
        ..good.clone()
    };
    assert!(emulator.launch(&fewer).is_err());
    let unknown = Launch {
        function: "no_such_kernel",
        ..good.clone()
    };
    assert!(
        emulator
            .launch(&unknown)
            .unwrap_err()
            .to_string()
            .contains("no_such_kernel")
    );
    let unknown = Launch {
        module: "no_such_file",
        ..good.clone()
    };
    assert!(
        emulator
            .launch(&unknown)
            .unwrap_err()
            .to_string()
            .contains("no_such_file.cu")
    );
    for (grid, block, shared_bytes) in [
        ([0, 1, 1], [64, 1, 1], 0),
        ([1, 65_536, 1], [64, 1, 1], 0),
        ([1, 1, 1], [2048, 1, 1], 0),
        ([1, 1, 1], [64, 1, 1], 300_000),
    ] {
        let beyond = Launch {
            grid,
            block,
            shared_bytes,
            ..good.clone()
        };
        let message = emulator.launch(&beyond).unwrap_err().to_string();
        assert!(message.contains("beyond a card's limits"), "{message}");
    }
}

#[test]
fn another_seed_runs_blocks_in_another_order_and_each_once() {
    let last = |seed| {
        let emulator = Emulator::over(folder(), Placement::End, seed);
        let y = emulator.empty::<f32>(1);
        let mut launch = launch("memory", "last_block", pointers(&emulator, &[&y]));
        launch.grid = [100, 1, 1];
        emulator.launch(&launch).unwrap();
        emulator.elements::<f32>(&y)[0]
    };
    assert_ne!(last(1), last(2));
}

fn product<T: Number>(emulator: &Emulator, function: &'static str) {
    // Small integers and halves: every product and sum is exact in f32.
    let numbers = |seed| -> Vec<f32> {
        noise(256, seed)
            .iter()
            .map(|x| (x * 4.0).round() / 2.0)
            .collect()
    };
    let (a, b) = (rounded::<T>(&numbers(1)), rounded::<T>(&numbers(2)[..128]));
    let (da, db, dd) = (
        emulator.buffer(&a),
        emulator.buffer(&b),
        emulator.empty::<f32>(128),
    );
    let mut launch = launch("tensor", function, pointers(emulator, &[&da, &db, &dd]));
    launch.block = [32, 1, 1];
    emulator.launch(&launch).unwrap();
    let mut expected = [0f32; 128];
    for (row, column, k) in
        (0..16).flat_map(|r| (0..8).flat_map(move |c| (0..16).map(move |k| (r, c, k))))
    {
        expected[row * 8 + column] += a[row * 16 + k].load() * b[k * 8 + column].load();
    }
    assert_eq!(emulator.elements::<f32>(&dd), expected, "{function}");
}

#[test]
fn mma_and_ldmatrix_give_the_plain_product() {
    for emulator in [emulator(Placement::End), emulator(Placement::Start)] {
        product::<f16>(&emulator, "product_f16");
        product::<bf16>(&emulator, "product_bf16");
        product::<f16>(&emulator, "product_of_transposed_f16");
    }
}

#[test]
fn half_precision_rounds_as_half_does() {
    both_ways(|like| {
        let emulator = Emulator::over(folder(), like.placement, 1);
        let mut x = noise(64, 9);
        x[..16].copy_from_slice(&[
            0.0,
            -0.0,
            1e-8,
            6e-8,
            5.9e-5,
            65504.0,
            65520.0,
            1e30,
            f32::INFINITY,
            1.0 + 1.0 / 2048.0,
            1.0 + 3.0 / 2048.0,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            3.3e38,
            2.98e-8,
            -1e-7,
        ]);
        let (dx, f, b) = (
            emulator.buffer(&x),
            emulator.empty::<u32>(32),
            emulator.empty::<u32>(32),
        );
        let mut launch = launch("tensor", "pairs", pointers(&emulator, &[&dx, &f, &b]));
        launch.block = [32, 1, 1];
        emulator.launch(&launch).unwrap();
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let expected_f: Vec<u32> = x
            .chunks(2)
            .map(|x| pair(f16::from_f32(x[0]).to_bits(), f16::from_f32(x[1]).to_bits()))
            .collect();
        let expected_b: Vec<u32> = x
            .chunks(2)
            .map(|x| {
                pair(
                    bf16::from_f32(x[0]).to_bits(),
                    bf16::from_f32(x[1]).to_bits(),
                )
            })
            .collect();
        assert_eq!(emulator.elements::<u32>(&f), expected_f);
        assert_eq!(emulator.elements::<u32>(&b), expected_b);
    });
}
