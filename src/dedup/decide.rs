//! From pairs to decisions: which rows are duplicates, and of which row.
//!
//! Pairs come as they are stored ([`Pair`]): identical rows collapsed, the first standing for its class in all pairs with others.
//! Decisions are made on classes: every row of a class has all the pairs of the row that stands for it, whether or not that row
//! takes part, and matches its class mates.
//!
//! Two rows match when `cosine >= 1 - eps` in f64, or when they are identical. The second part counts because rows are unit
//! rows only to the precision of f32: the cosine of a row with itself may be 0.99999994, and eps 0 shall still pair a
//! row with its copy. Rows that differ in some bit match at eps 0 only if their cosine comes out as 1 or more.
//!
//! # Example
//! ```
//! use clipsift::dedup::decide::{Removal, decide};
//! use clipsift::dedup::exact::{ExactPairs, Params};
//! // A, B near A, C near B but not near A.
//! let rows = [1.0, 0.0, 0.96, 0.28, 0.8432, 0.5376];
//! let (pairs, _) = ExactPairs::new(&rows, 2, Params { floor: 0.2, ..Params::default() })?.collect()?;
//! let all = [true; 3];
//! let group = decide(3, &all, &[0, 1, 2], &pairs, 0.1, Removal::Group)?;
//! assert_eq!(group[1].map(|d| d.row), Some(0));
//! assert_eq!(group[2], None);
//! let chain = decide(3, &all, &[0, 1, 2], &pairs, 0.1, Removal::Chain)?;
//! assert_eq!(chain[2].map(|d| d.row), Some(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use super::exact::Pair;
pub use super::rank::{Error as RankError, Keep, RankKeys, id_hash, rank};

use std::fmt;
use std::str::FromStr;

/// What a row falls to, `--removal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Removal {
    /// Walk the rows in order of preference and keep a row unless a kept row lies within eps. No row falls to a row that
    /// itself fell, and no two kept rows lie within eps.
    #[default]
    Group,
    /// Drop a row that matches any earlier row, kept or not: the rule of the reference system (NVIDIA NeMo Curator).
    Chain,
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Removal::Group => "group",
            Removal::Chain => "chain",
        })
    }
}

impl FromStr for Removal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "group" => Ok(Removal::Group),
            "chain" => Ok(Removal::Chain),
            _ => Err(format!(
                "'{text}' is no way of removal: expected group or chain"
            )),
        }
    }
}

/// What a dropped row is a duplicate of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DuplicateOf {
    /// Row number.
    pub row: u64,
    /// The cosine of the two, as stored.
    pub cosine: f64,
}

/// Why nothing can be decided.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `eps` is not between 0 and 2.
    #[error("an eps of {0}: expected a number from 0 (cosine 1) to 2 (cosine -1)")]
    Eps(f64),
    /// A slice has not a value for each row.
    #[error("{what}: expected {rows} values, one for each row, got {values}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// n.
        rows: usize,
        /// Its length.
        values: usize,
    },
    /// A pair names a row that there is not.
    #[error("the pair ({a}, {b}): expected rows below {rows}")]
    Pair {
        /// One row.
        a: u64,
        /// The other.
        b: u64,
        /// n.
        rows: usize,
    },
    /// The order of preference does not name each survivor once.
    #[error(
        "the order of preference names {got}: expected each surviving row once, of {rows} rows"
    )]
    Order {
        /// n.
        rows: usize,
        /// What is wrong with it.
        got: String,
    },
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Eps(_) => crate::Error::usage(error.to_string()),
            error => crate::Error::shape(
                "decide",
                "pairs, survivors and order of one set",
                error.to_string(),
            ),
        }
    }
}

/// For each of `n` rows what it is a duplicate of, if it is one.
///
/// - `survivors` `[n]`: the rows that passed the thresholds. Others neither fall nor make others fall.
/// - `order`: row numbers, best first; every survivor once, non-survivors at will ([`rank`]).
/// - `pairs`: as [`super::exact::ExactPairs`] or [`super::semantic::SemanticDedup`] found them, in any order. Those farther
///   apart than `eps` are passed over, so pairs down to a lower floor serve any smaller eps.
///
/// [`Removal::Group`]: a row falls when a row that was kept before it matches; it falls to the one of greatest cosine, the
/// earliest in order on a tie. [`Removal::Chain`]: likewise with all survivors before it, kept or not.
///
/// For more than one block of pairs, and for rows of an earlier set, see [`PairGraph`].
///
/// # Errors
/// See [`Error`].
pub fn decide(
    n: usize,
    survivors: &[bool],
    order: &[u64],
    pairs: &[Pair],
    eps: f64,
    removal: Removal,
) -> Result<Vec<Option<DuplicateOf>>, Error> {
    let mut graph = PairGraph::new(n, eps)?;
    graph.add(pairs)?;
    graph.decide(survivors, &[], order, removal)
}

/// The pairs within eps, gathered block by block, and the classes of identical rows.
///
/// Memory: 16 bytes a row and 24 bytes for each pair within eps; while deciding 66 more bytes a row and 32 a pair. Identical
/// rows cost nothing beyond that, and time is linear in rows and pairs.
#[derive(Clone, Debug)]
pub struct PairGraph {
    threshold: f64,
    /// For each row another of its class, lower; itself at the lowest. Followed to its end this is the class.
    parent: Vec<u64>,
    /// The cosine of a row of the class with itself, kept at the row that the class is called by when it was seen.
    own_cosine: Vec<f64>,
    edges: Vec<(u64, u64, f64)>,
}

impl PairGraph {
    /// `n` rows without pairs.
    ///
    /// # Errors
    /// [`Error::Eps`].
    pub fn new(n: usize, eps: f64) -> Result<Self, Error> {
        if !(0.0..=2.0).contains(&eps) {
            return Err(Error::Eps(eps));
        }
        Ok(PairGraph {
            threshold: 1.0 - eps,
            parent: (0..n as u64).collect(),
            own_cosine: vec![f64::NEG_INFINITY; n],
            edges: Vec::new(),
        })
    }

    /// Takes in a block of pairs; those farther apart than eps are passed over.
    ///
    /// # Errors
    /// [`Error::Pair`].
    pub fn add(&mut self, pairs: &[Pair]) -> Result<(), Error> {
        let rows = self.parent.len();
        for &Pair {
            a,
            b,
            cosine,
            identical,
        } in pairs
        {
            if a >= rows as u64 || b >= rows as u64 {
                return Err(Error::Pair { a, b, rows });
            }
            if identical {
                let (x, y) = (self.class(a), self.class(b));
                self.parent[x.max(y) as usize] = x.min(y);
                let own = &mut self.own_cosine[x.min(y) as usize];
                *own = own.max(cosine);
            } else if cosine >= self.threshold {
                self.edges.push((a, b, cosine));
            }
        }
        Ok(())
    }

    /// The lowest row of a row's class.
    fn class(&mut self, mut row: u64) -> u64 {
        while self.parent[row as usize] != row {
            // Halving the path keeps it short.
            let above = self.parent[row as usize];
            self.parent[row as usize] = self.parent[above as usize];
            row = self.parent[row as usize];
        }
        row
    }

    /// [`decide`] over the pairs that were added, with the rows of an earlier set `[n]` (or none: empty): these are never
    /// dropped and not compared with each other. They win over all others when they come first in `order`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decide(
        &mut self,
        survivors: &[bool],
        earlier_set: &[bool],
        order: &[u64],
        removal: Removal,
    ) -> Result<Vec<Option<DuplicateOf>>, Error> {
        let n = self.parent.len();
        let length = |what, values| {
            if values == n {
                Ok(())
            } else {
                Err(Error::Length {
                    what,
                    rows: n,
                    values,
                })
            }
        };
        length("survivors", survivors.len())?;
        if !earlier_set.is_empty() {
            length("the earlier set", earlier_set.len())?;
        }
        check_order(survivors, order)?;
        let neighbours = self.neighbours();

        // For each class the best row that its rows can fall to so far. A class matches itself, so at most one of its rows is
        // kept (an earlier set's aside), and only the first that counts need be told to the classes around it: a later one
        // has the same cosines and loses the tie.
        let mut best: Vec<Option<DuplicateOf>> = vec![None; n];
        let mut told = vec![false; n];
        let mut duplicates = vec![None; n];
        for &row in order.iter().filter(|&&row| survivors[row as usize]) {
            let class = self.class(row);
            let may_fall = !earlier_set
                .get(row as usize)
                .is_some_and(|&earlier| earlier);
            let duplicate = best[class as usize].filter(|_| may_fall);
            duplicates[row as usize] = duplicate;
            let counts = match removal {
                Removal::Group => duplicate.is_none(),
                Removal::Chain => true,
            };
            if counts && !told[class as usize] {
                told[class as usize] = true;
                let own = (class, self.own_cosine[class as usize]);
                for &(other, cosine) in std::iter::once(&own).chain(neighbours.of(class)) {
                    let best = &mut best[other as usize];
                    // Rows come in order of preference, so the earliest keeps a tie.
                    if best.is_none_or(|best| cosine > best.cosine) {
                        *best = Some(DuplicateOf { row, cosine });
                    }
                }
            }
        }
        Ok(duplicates)
    }

    /// For each class the classes within eps of it and their cosines.
    fn neighbours(&mut self) -> Neighbours {
        let edges = std::mem::take(&mut self.edges);
        let mut offsets = vec![0; self.parent.len() + 1];
        for &(a, b, _) in &edges {
            offsets[self.class(a) as usize + 1] += 1;
            offsets[self.class(b) as usize + 1] += 1;
        }
        for class in 0..self.parent.len() {
            offsets[class + 1] += offsets[class];
        }
        let mut next = offsets.clone();
        let mut list = vec![(0, 0.0); edges.len() * 2];
        for &(a, b, cosine) in &edges {
            let (a, b) = (self.class(a), self.class(b));
            for (from, to) in [(a, b), (b, a)] {
                let place = &mut next[from as usize];
                list[*place] = (to, cosine);
                *place += 1;
            }
        }
        self.edges = edges;
        Neighbours { offsets, list }
    }
}

/// Adjacency lists in two arrays.
struct Neighbours {
    offsets: Vec<usize>,
    list: Vec<(u64, f64)>,
}

impl Neighbours {
    fn of(&self, class: u64) -> &[(u64, f64)] {
        let class = class as usize;
        &self.list[self.offsets[class]..self.offsets[class + 1]]
    }
}

fn check_order(survivors: &[bool], order: &[u64]) -> Result<(), Error> {
    let rows = survivors.len();
    let wrong = |got: String| Err(Error::Order { rows, got });
    let mut named = vec![false; rows];
    for &row in order {
        match named.get_mut(row as usize) {
            None => return wrong(format!("row {row}")),
            Some(true) => return wrong(format!("row {row} twice")),
            Some(seen) => *seen = true,
        }
    }
    match (0..rows).find(|&row| survivors[row] && !named[row]) {
        Some(row) => wrong(format!("not the survivor {row}")),
        None => Ok(()),
    }
}
