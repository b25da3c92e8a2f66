use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Random values of a format; magnitudes of bf16 and f32 near one.
fn lines(rng: &mut ChaCha8Rng, format: Format, count: usize) -> Vec<Line> {
    let mut line = || {
        let mut bytes = [0; CHUNK];
        for group in bytes.as_chunks_mut::<4>().0 {
            let random = rng.next_u32();
            let float = |bits: u32| (bits & 0xffff) as f32 / 32_768.0 - 1.0;
            *group = match format {
                Format::F32 => float(random).to_le_bytes(),
                Format::Bf16 => {
                    let half = |bits| half::bf16::from_f32(float(bits)).to_le_bytes();
                    let (a, b) = (half(random), half(random >> 16));
                    [a[0], a[1], b[0], b[1]]
                }
                Format::Int8 | Format::Signed8 => random.to_le_bytes(),
            };
        }
        Line(bytes)
    };
    (0..count).map(|_| line()).collect()
}

#[test]
fn every_unit_gives_the_sums_of_its_portable_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for format in [Format::F32, Format::Bf16, Format::Int8, Format::Signed8] {
        for (strips, chunks, steps) in [(1, 1, 1), (3, 2, 2), (2, 12, 3)] {
            let lines_of_step = chunks * LINES;
            let left_stride = steps * lines_of_step;
            let left = lines(&mut rng, format, strips * left_stride);
            let right = lines(&mut rng, format, steps * lines_of_step);
            // From the last to the first, so that an offset that is ignored shows.
            let steps: Vec<(usize, usize)> = (0..steps)
                .rev()
                .map(|step| (step * lines_of_step, step * lines_of_step))
                .collect();
            for fresh in [true, false] {
                let task = Task {
                    left: &left,
                    left_stride,
                    right: &right,
                    steps: &steps,
                    chunks,
                    fresh,
                };
                let begin = match format {
                    Format::Int8 | Format::Signed8 => f32::from_bits(7),
                    _ => 0.5,
                };
                let mut expected = vec![Block([[begin; EDGE]; EDGE]); strips];
                accumulate(Unit::Portable, format, task, &mut expected);
                for unit in Unit::available(format) {
                    let mut got = vec![Block([[begin; EDGE]; EDGE]); strips];
                    accumulate(unit, format, task, &mut got);
                    for (got, expected) in got.iter().zip(&expected) {
                        for (got, expected) in
                            got.0.as_flattened().iter().zip(expected.0.as_flattened())
                        {
                            let same = match format {
                                Format::Int8 | Format::Signed8 => {
                                    got.to_bits() == expected.to_bits()
                                }
                                _ => (got - expected).abs() < 1e-4,
                            };
                            assert!(
                                same,
                                "{unit:?} {format:?}, {strips} strips: {got} for {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "the right operand ends early")]
fn a_short_operand_is_refused() {
    let line = [Line::ZERO; LINES];
    let task = Task {
        left: &line,
        left_stride: LINES,
        right: &line[1..],
        steps: &[(0, 0)],
        chunks: 1,
        fresh: true,
    };
    accumulate(Unit::Portable, Format::Bf16, task, &mut [Block::ZERO]);
}
