//! What tiles are scanned with: the smallest value, and where values pass a limit. Few do, so blocks are tested whole first,
//! in a form that compilers turn into vector code.

const BLOCK: usize = 16;

/// The smallest of `by(value)`; infinity for none.
pub(crate) fn smallest(values: &[f32], by: impl Fn(f32) -> f32) -> f32 {
    let less = |x: f32, y: f32| if y < x { y } else { x };
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let mut lanes = [f32::INFINITY; BLOCK];
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = less(*lane, by(x));
        }
    }
    let rest = rest.iter().map(|&x| by(x));
    lanes.into_iter().chain(rest).fold(f32::INFINITY, less)
}

/// The places of the values that are at least `limit`, ascending.
pub(crate) fn at_least(values: &[f32], limit: f32) -> impl Iterator<Item = usize> {
    places(values, move |x| x >= limit)
}

fn places(values: &[f32], passes: impl Fn(f32) -> bool + Copy) -> impl Iterator<Item = usize> {
    values
        .chunks(BLOCK)
        .enumerate()
        // `|` and not `any`: no way out early, hence no branch.
        .filter(move |(_, block)| block.iter().fold(false, |any, &x| any | passes(x)))
        .flat_map(move |(i, block)| {
            (i * BLOCK..)
                .zip(block)
                .filter(move |&(_, &x)| passes(x))
                .map(|(place, _)| place)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_find_what_a_loop_finds() {
        for n in [0, 1, 15, 16, 17, 33, 100] {
            let values: Vec<f32> = (0..n).map(|i| ((i * 37) % 19) as f32 - 9.0).collect();
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(smallest(&values, |x| x), least);
            assert_eq!(-smallest(&values, |x| -x), greatest);
            for limit in [-20.0, -9.0, 0.0, 8.0, 20.0] {
                let expected: Vec<usize> = (0..n).filter(|&i| values[i] >= limit).collect();
                assert_eq!(at_least(&values, limit).collect::<Vec<_>>(), expected);
            }
        }
    }
}
