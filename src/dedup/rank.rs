//! The order of preference: which of two rows that mean the same is the better one.

use super::seeding::mix;
use rayon::prelude::*;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The order of preference among rows, `--keep`. Ties always end at the id, then the row number, so an order is total.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Keep {
    /// More pixels first, then more bytes, then the lower id.
    Largest,
    /// The order of the input.
    First,
    /// By a seeded hash of the id, so that a row's place among others does not change with the partition it is in.
    Random,
    /// Far from the centroid first; the *higher* id on a tie (as the reference system, NVIDIA NeMo Curator, has it).
    Hard,
    /// Near to the centroid first; the lower id on a tie.
    Easy,
    /// By a score, then the lower id. Rows without a score (NaN) come last either way.
    Best {
        /// The score's name.
        score: String,
        /// Low scores first.
        ascending: bool,
    },
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Keep::Largest => f.write_str("largest"),
            Keep::First => f.write_str("first"),
            Keep::Random => f.write_str("random"),
            Keep::Hard => f.write_str("hard"),
            Keep::Easy => f.write_str("easy"),
            Keep::Best { score, ascending } => {
                write!(f, "best:{score}{}", if *ascending { ":asc" } else { "" })
            }
        }
    }
}

impl FromStr for Keep {
    type Err = String;

    /// `largest`, `first`, `random`, `hard`, `easy`, `best:NAME` or `best:NAME:asc`.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "largest" => Keep::Largest,
            "first" => Keep::First,
            "random" => Keep::Random,
            "hard" => Keep::Hard,
            "easy" => Keep::Easy,
            _ => {
                let name = text.strip_prefix("best:").unwrap_or("");
                let (score, ascending) = match name.strip_suffix(":asc") {
                    Some(score) => (score, true),
                    None => (name, false),
                };
                if score.is_empty() || score.contains(':') {
                    return Err(format!(
                        "'{text}' is no order of preference: expected largest, first, random, hard, easy, best:NAME or \
                         best:NAME:asc"
                    ));
                }
                Keep::Best {
                    score: score.to_string(),
                    ascending,
                }
            }
        })
    }
}

/// What rows are ranked by. Each slice has a value for each row, or is empty where nothing asks for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RankKeys<'a> {
    /// n.
    pub rows: usize,
    /// The place of each row's id in the order of ids (text by its bytes, numbers by value). Empty: the row number.
    pub id_rank: &'a [u64],
    /// [`id_hash`] of each row's id; for [`Keep::Random`].
    pub id_hash: &'a [u64],
    /// Width times height; for [`Keep::Largest`].
    pub pixels: &'a [u64],
    /// Size of the image file in bytes; for [`Keep::Largest`].
    pub bytes: &'a [u64],
    /// [`super::kmeans::cosine_dist_to_cent`]; for [`Keep::Hard`] and [`Keep::Easy`].
    pub cosine_dist_to_cent: &'a [f32],
    /// Scores by name; for [`Keep::Best`].
    pub scores: &'a [(&'a str, &'a [f32])],
    /// For [`Keep::Random`].
    pub seed: u64,
}

/// Why rows cannot be ranked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key that the order asks for is not there.
    #[error("keep {keep} needs {key} for each row: {rows} rows, {values} values")]
    Missing {
        /// The order.
        keep: Keep,
        /// The key.
        key: String,
        /// n.
        rows: usize,
        /// The values given.
        values: usize,
    },
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        crate::Error::usage(error.to_string())
    }
}

/// A hash of an id for [`RankKeys::id_hash`], the same everywhere and for ever: FNV-1a of 64 bits over the bytes of the id (of a
/// number: over its decimal digits).
pub fn id_hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The row numbers in order of preference, best first: a permutation of 0..n.
///
/// # Errors
/// [`Error::Missing`].
pub fn rank(keep: &Keep, keys: &RankKeys) -> Result<Vec<u64>, Error> {
    let n = keys.rows;
    let need = |key: &str, values: usize| {
        if values == n {
            return Ok(());
        }
        Err(Error::Missing {
            keep: keep.clone(),
            key: key.to_string(),
            rows: n,
            values,
        })
    };
    if !keys.id_rank.is_empty() {
        need("the order of ids", keys.id_rank.len())?;
    }
    let id = |row: u64| (keys.id_rank.get(row as usize).copied().unwrap_or(row), row);
    let mut order: Vec<u64> = (0..n as u64).collect();
    match keep {
        Keep::First => {}
        Keep::Largest => {
            need("pixels", keys.pixels.len())?;
            need("bytes", keys.bytes.len())?;
            let size = |row: u64| (keys.pixels[row as usize], keys.bytes[row as usize]);
            order.par_sort_unstable_by(|&a, &b| size(b).cmp(&size(a)).then(id(a).cmp(&id(b))));
        }
        Keep::Random => {
            need("hashes of ids", keys.id_hash.len())?;
            let seed = mix(keys.seed);
            let draw = |row: u64| mix(seed ^ keys.id_hash[row as usize]);
            order.par_sort_unstable_by_key(|&row| (draw(row), id(row)));
        }
        Keep::Hard | Keep::Easy => {
            need("distances to centroids", keys.cosine_dist_to_cent.len())?;
            let (distance, descending) = (keys.cosine_dist_to_cent, *keep == Keep::Hard);
            order.par_sort_unstable_by(|&a, &b| {
                let ids = id(a).cmp(&id(b));
                let ids = if descending { ids.reverse() } else { ids };
                by_value(distance[a as usize], distance[b as usize], descending).then(ids)
            });
        }
        Keep::Best { score, ascending } => {
            let values = keys.scores.iter().find(|(name, _)| name == score);
            let values = values.map_or(&[][..], |(_, values)| values);
            need(&format!("the score {score}"), values.len())?;
            order.par_sort_unstable_by(|&a, &b| {
                by_value(values[a as usize], values[b as usize], !ascending).then(id(a).cmp(&id(b)))
            });
        }
    }
    Ok(order)
}

/// NaN last; 0.0 and -0.0 alike.
fn by_value(a: f32, b: f32, descending: bool) -> Ordering {
    match a.partial_cmp(&b) {
        Some(order) if descending => order.reverse(),
        Some(order) => order,
        None => a.is_nan().cmp(&b.is_nan()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_shown_alike() {
        for text in [
            "largest",
            "first",
            "random",
            "hard",
            "easy",
            "best:aesthetic",
            "best:nsfw:asc",
        ] {
            assert_eq!(text.parse::<Keep>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "best",
            "best:",
            "best::asc",
            "best:a:b",
            "best:a:desc",
            "Largest",
            "smallest",
        ] {
            assert!(
                text.parse::<Keep>().unwrap_err().contains("best:NAME:asc"),
                "{text}"
            );
        }
    }

    #[test]
    fn ties_end_at_the_id_and_nan_comes_last() {
        let id_rank = [3, 2, 1, 0];
        let keys = RankKeys {
            rows: 4,
            id_rank: &id_rank,
            pixels: &[10, 10, 20, 10],
            bytes: &[5, 6, 1, 5],
            cosine_dist_to_cent: &[0.5, 0.0, -0.0, f32::NAN],
            scores: &[("s", &[1.0, f32::NAN, 1.0, 2.0])],
            ..RankKeys::default()
        };
        let ranked = |keep: &str| rank(&keep.parse().unwrap(), &keys).unwrap();
        assert_eq!(ranked("first"), [0, 1, 2, 3]);
        assert_eq!(ranked("largest"), [2, 1, 3, 0]);
        assert_eq!(ranked("hard"), [0, 1, 2, 3]);
        assert_eq!(ranked("easy"), [2, 1, 0, 3]);
        assert_eq!(ranked("best:s"), [3, 2, 0, 1]);
        assert_eq!(ranked("best:s:asc"), [2, 0, 3, 1]);
    }

    #[test]
    fn a_missing_key_is_named() {
        let keys = RankKeys {
            rows: 2,
            scores: &[("other", &[1.0, 2.0])],
            ..RankKeys::default()
        };
        for (keep, what) in [
            ("largest", "pixels"),
            ("random", "hashes of ids"),
            ("hard", "distances"),
            ("best:s", "the score s"),
        ] {
            let message = rank(&keep.parse().unwrap(), &keys).unwrap_err().to_string();
            assert!(message.contains(what), "{message}");
        }
    }

    #[test]
    fn a_random_order_belongs_to_the_ids_and_not_to_the_rows() {
        let ids: Vec<String> = (0..50).map(|i| format!("shard/{i}")).collect();
        let order_of = |ids: &[String], seed: u64| -> Vec<String> {
            let hashes: Vec<u64> = ids.iter().map(|id| id_hash(id)).collect();
            let keys = RankKeys {
                rows: ids.len(),
                id_hash: &hashes,
                seed,
                ..RankKeys::default()
            };
            let order = rank(&Keep::Random, &keys).unwrap();
            order.iter().map(|&row| ids[row as usize].clone()).collect()
        };
        let all = order_of(&ids, 1);
        let part = order_of(&ids[20..40], 1);
        let expected: Vec<_> = all
            .iter()
            .filter(|id| ids[20..40].contains(id))
            .cloned()
            .collect();
        assert_eq!(part, expected);
        assert_ne!(all, ids);
        assert_ne!(all, order_of(&ids, 2));
    }
}
