//! Which samples the page shows: groups of duplicates, pairs that are just not duplicates, and the ends and the edge of every
//! score.

use std::collections::{BTreeMap, BTreeSet};

use super::Facts;
use crate::sample::Reason;
use crate::store::run_file::Bound;

/// Groups of duplicates that are shown at most.
pub(crate) const GROUPS: usize = 200;

/// Duplicates of a group that are shown at most.
const MEMBERS: usize = 7;

/// Pairs just beyond eps that are shown at most.
const NEAR_MISSES: usize = 24;

/// Samples of a contact sheet.
const SHEET: usize = 12;

/// What the page shows of the samples.
pub(crate) struct Shown {
    /// Groups, the one with the least similar duplicate first.
    pub groups: Vec<Group>,
    /// Groups in all.
    pub groups_total: usize,
    /// Pairs of kept samples that are nearest to being duplicates, nearest first.
    pub near_misses: Vec<(usize, usize, f64)>,
    /// A set of contact sheets for each score.
    pub sheets: Vec<Sheets>,
}

/// A kept row and what fell to it.
pub(crate) struct Group {
    /// The kept row.
    pub kept: usize,
    /// Its duplicates that are shown, most similar first.
    pub members: Vec<Member>,
    /// Its duplicates in all.
    pub total: usize,
}

/// A duplicate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Member {
    /// The row.
    pub row: usize,
    /// What it fell to: the kept row, or with chains another duplicate.
    pub of: usize,
    /// Their cosine.
    pub cosine: Option<f64>,
}

/// Rows of a score, each list by rising score.
#[derive(Default)]
pub(crate) struct Sheets {
    /// The lowest.
    pub lowest: Vec<usize>,
    /// The highest.
    pub highest: Vec<usize>,
    /// For each threshold, or for the median where there is none: the bound, and the rows nearest to it.
    pub borderline: Vec<(f64, Vec<usize>)>,
}

impl Shown {
    /// Looks through what was decided and scored.
    pub(crate) fn choose(facts: &Facts) -> Shown {
        let mut groups = groups(facts);
        let groups_total = groups.len();
        groups = spread(groups_total, GROUPS)
            .map(|i| std::mem::replace(&mut groups[i], Group::empty()))
            .collect();
        for group in &mut groups {
            group.members = spread(group.total, MEMBERS)
                .map(|i| group.members[i])
                .collect();
        }
        let alike = alike(facts);
        Shown {
            groups,
            groups_total,
            near_misses: near_misses(facts),
            sheets: facts
                .scores
                .iter()
                .map(|(name, values)| sheets(facts, name, values, &alike))
                .collect(),
        }
    }

    /// Good rows that need a picture.
    pub(crate) fn rows(&self) -> BTreeSet<usize> {
        let groups = self.groups.iter().flat_map(|group| {
            std::iter::once(group.kept).chain(group.members.iter().map(|member| member.row))
        });
        let near = self.near_misses.iter().flat_map(|(a, b, _)| [*a, *b]);
        let sheets = self.sheets.iter().flat_map(|sheets| {
            let borderline = sheets.borderline.iter().flat_map(|(_, rows)| rows);
            let ends = sheets.lowest.iter().chain(&sheets.highest);
            ends.chain(borderline).copied()
        });
        groups.chain(near).chain(sheets).collect()
    }
}

impl Group {
    fn empty() -> Group {
        Group {
            kept: 0,
            members: Vec::new(),
            total: 0,
        }
    }

    fn least_cosine(&self) -> f64 {
        let cosines = self.members.iter().filter_map(|member| member.cosine);
        cosines.fold(f64::INFINITY, f64::min)
    }
}

/// At most `most` of `total` positions, evenly spread with both ends.
fn spread(total: usize, most: usize) -> impl Iterator<Item = usize> {
    let most = most.max(2);
    (0..total.min(most)).map(move |i| {
        if total <= most {
            i
        } else {
            i * (total - 1) / (most - 1)
        }
    })
}

/// All groups with all their members.
fn groups(facts: &Facts) -> Vec<Group> {
    let Some(decided) = &facts.decided else {
        return Vec::new();
    };
    let mut members: BTreeMap<usize, Vec<Member>> = BTreeMap::new();
    let mut roots: Vec<Option<usize>> = vec![None; decided.fallen.len()];
    for row in 0..decided.fallen.len() {
        let Some((of, cosine)) = decided.fallen[row] else {
            continue;
        };
        let root = root(row, &decided.fallen, &mut roots);
        members
            .entry(root)
            .or_default()
            .push(Member { row, of, cosine });
    }
    let by_cosine = |a: &Member, b: &Member| {
        let cosine = |m: &Member| m.cosine.unwrap_or(f64::NEG_INFINITY);
        cosine(b).total_cmp(&cosine(a)).then(a.row.cmp(&b.row))
    };
    let mut groups: Vec<Group> = members
        .into_iter()
        .map(|(kept, mut members)| {
            members.sort_by(by_cosine);
            let total = members.len();
            Group {
                kept,
                members,
                total,
            }
        })
        .collect();
    groups.sort_by(|a, b| a.least_cosine().total_cmp(&b.least_cosine()));
    groups
}

/// The kept row at the end of a chain of duplicates. Every row on the way learns it, so all rows together take linear time.
fn root(row: usize, fallen: &[Option<(usize, Option<f64>)>], roots: &mut [Option<usize>]) -> usize {
    let mut way = Vec::new();
    let mut at = row;
    while let (None, Some((of, _))) = (roots[at], fallen[at]) {
        way.push(at);
        at = of;
        // A damaged table may go in a circle.
        if way.len() > fallen.len() {
            break;
        }
    }
    let root = roots[at].unwrap_or(at);
    way.into_iter().for_each(|row| roots[row] = Some(root));
    root
}

/// Pairs of kept rows that are not duplicates, though nearly.
fn near_misses(facts: &Facts) -> Vec<(usize, usize, f64)> {
    let (Some(eps), Some(pairs)) = (facts.eps(), &facts.pairs) else {
        return Vec::new();
    };
    let kept = |row: u64| {
        let row = row as usize;
        row >= facts.rows() || facts.reason(row) == Some(&Reason::Kept)
    };
    pairs
        .near
        .iter()
        .filter(|pair| pair.cosine < 1.0 - eps && kept(pair.a) && kept(pair.b))
        .take(NEAR_MISSES)
        .map(|pair| (pair.a as usize, pair.b as usize, pair.cosine))
        .collect()
}

/// Contact sheets of a score. Of rows that are copies of each other, by `alike`, a sheet has one: twelve times the same picture
/// tells nothing.
fn sheets(facts: &Facts, name: &str, values: &[f32], alike: &[usize]) -> Sheets {
    let mut rows: Vec<usize> = (0..values.len())
        .filter(|&row| values[row].is_finite())
        .collect();
    rows.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]).then(a.cmp(&b)));
    if rows.is_empty() {
        return Sheets::default();
    }
    let distinct = |rows: &mut dyn Iterator<Item = &usize>, most: usize| -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let rows = rows.filter(|row| seen.insert(alike[**row]));
        rows.take(most).copied().collect()
    };
    let lowest = distinct(&mut rows.iter(), SHEET);
    let mut highest = distinct(&mut rows.iter().rev(), SHEET);
    highest.retain(|row| !lowest.contains(row));
    highest.reverse();
    let mut bounds: Vec<f64> = facts
        .thresholds(name)
        .map(|t| match t.bound {
            Bound::Min(x) | Bound::Max(x) => x,
        })
        .collect();
    if bounds.is_empty() {
        bounds.push(f64::from(values[rows[rows.len() / 2]]));
    }
    let borderline = bounds.into_iter().map(|bound| {
        let above = rows.partition_point(|&row| f64::from(values[row]) < bound);
        let (below, above) = rows.split_at(above);
        let mut around = distinct(&mut below.iter().rev(), SHEET / 2);
        around.reverse();
        around.extend(distinct(&mut above.iter(), SHEET / 2));
        (bound, around)
    });
    Sheets {
        borderline: borderline.collect(),
        lowest,
        highest,
    }
}

/// For each row the lowest of those that it is a copy of, by way of others too, whether or not any of them is kept.
fn alike(facts: &Facts) -> Vec<usize> {
    let mut alike: Vec<usize> = (0..facts.all()).collect();
    let (Some(eps), Some(pairs)) = (facts.eps(), &facts.pairs) else {
        return alike;
    };
    fn find(alike: &mut [usize], mut row: usize) -> usize {
        while alike[row] != row {
            alike[row] = alike[alike[row]];
            row = alike[row];
        }
        row
    }
    let near = pairs.near.iter().filter(|pair| pair.cosine >= 1.0 - eps);
    for pair in pairs.identical.iter().chain(near) {
        let a = find(&mut alike, pair.a as usize);
        let b = find(&mut alike, pair.b as usize);
        alike[a.max(b)] = a.min(b);
    }
    (0..alike.len()).map(|row| find(&mut alike, row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_groups_has_both_ends() {
        assert_eq!(spread(3, 5).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(spread(100, 5).collect::<Vec<_>>(), [0, 24, 49, 74, 99]);
        assert_eq!(spread(0, 5).count(), 0);
    }

    #[test]
    fn chains_end_at_the_row_that_is_kept() {
        let n = 1000;
        let fallen: Vec<_> = (0..n)
            .map(|row: usize| row.checked_sub(1).map(|of| (of, None)))
            .collect();
        let mut roots = vec![None; n];
        assert!((0..n).rev().all(|row| root(row, &fallen, &mut roots) == 0));
        let circle = [Some((1, None)), Some((0, None))];
        assert!(root(0, &circle, &mut [None; 2]) < 2);
    }
}
