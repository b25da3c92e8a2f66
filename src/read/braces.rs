//! Brace ranges in input names, as bash and WebDataset write them: `shard-{00000..00041}.tar`, `{train,val}/{0..9}.tar`.
//!
//! A group is `{FROM..TO}`, `{FROM..TO..STEP}` with whole numbers (or single ASCII letters), or alternatives
//! `{a,b,c}`, which may hold groups themselves. Numbers are padded with zeros to the wider end where one end begins with a
//! zero. Anything else between braces is left as it is. The first group varies slowest.

use crate::{Error, Result};

/// More names than this from one argument are a slip of the finger, not a data set.
const LIMIT: usize = 1_000_000;

/// The same of the bytes of all names.
const BYTES_LIMIT: usize = 1 << 30;

/// The names that `pattern` stands for; `pattern` itself where it has no group.
///
/// # Errors
/// [`Error::Usage`] for more than a million names, or a gigabyte of them.
pub(crate) fn expand(pattern: &str) -> Result<Vec<String>> {
    let mut done = Vec::new();
    // What is still to expand, each with the length of its beginning that has no group; the next one last.
    let mut open = vec![(pattern.to_string(), 0)];
    // Bytes of both, none of which is given back but by a name that its choices take the place of.
    let mut held = pattern.len();
    while let Some((name, from)) = open.pop() {
        let Some((start, end, choices)) = first_group(&name, from) else {
            done.push(name);
            continue;
        };
        let choices = match choices {
            Choices::Texts(texts) => texts,
            Choices::Range(range) if range.fits() => range.texts(),
            Choices::Range(_) => return Err(too_many(pattern)),
        };
        if done.len() + open.len() + choices.len() > LIMIT {
            return Err(too_many(pattern));
        }
        held += choices.iter().map(|c| c.len() + name.len()).sum::<usize>() - name.len();
        if held > BYTES_LIMIT {
            return Err(too_many(pattern));
        }
        for choice in choices.iter().rev() {
            // An alternative may hold groups of its own, so the search goes on where it begins.
            open.push((format!("{}{choice}{}", &name[..start], &name[end..]), start));
        }
    }
    Ok(done)
}

fn too_many(pattern: &str) -> Error {
    Error::usage(format!(
        "{pattern}: stands for more than {LIMIT} names: check the braces"
    ))
}

enum Choices {
    Texts(Vec<String>),
    Range(Range),
}

/// The first group at or after byte `from`: where it begins, where it ends, what it stands for.
fn first_group(name: &str, from: usize) -> Option<(usize, usize, Choices)> {
    let mut at = from;
    while let Some(found) = name[at..].find('{') {
        let start = at + found;
        if let Some(inner) = balanced(&name[start + 1..])
            && let Some(choices) = choices(inner)
        {
            return Some((start, start + inner.len() + 2, choices));
        }
        at = start + 1;
    }
    None
}

/// What stands before the brace that closes the one just before `text`.
fn balanced(text: &str) -> Option<&str> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(&text[..at]),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn choices(inner: &str) -> Option<Choices> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(inner[begin..at].to_string());
                begin = at + 1;
            }
            _ => {}
        }
    }
    if parts.is_empty() {
        return Range::parse(inner).map(Choices::Range);
    }
    parts.push(inner[begin..].to_string());
    Some(Choices::Texts(parts))
}

struct Range {
    from: i64,
    to: i64,
    step: u64,
    width: usize,
    letters: bool,
}

impl Range {
    fn parse(inner: &str) -> Option<Range> {
        let mut parts = inner.split("..");
        let (from, to, step) = (parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() {
            return None;
        }
        let step = match step {
            Some(step) => number(step)?.unsigned_abs().max(1),
            None => 1,
        };
        if let ([a], [b]) = (from.as_bytes(), to.as_bytes())
            && a.is_ascii_alphabetic()
            && b.is_ascii_alphabetic()
        {
            return Some(Range {
                from: i64::from(*a),
                to: i64::from(*b),
                step,
                width: 0,
                letters: true,
            });
        }
        let padded = |text: &str| {
            let digits = text.trim_start_matches('-');
            digits.len() > 1 && digits.starts_with('0')
        };
        Some(Range {
            from: number(from)?,
            to: number(to)?,
            step,
            width: if padded(from) || padded(to) {
                from.len().max(to.len())
            } else {
                0
            },
            letters: false,
        })
    }

    /// The number of names.
    fn len(&self) -> u128 {
        u128::from(self.from.abs_diff(self.to)) / u128::from(self.step) + 1
    }

    /// Whether the names are not too many, nor the zeros before them.
    fn fits(&self) -> bool {
        let bytes = self.len().saturating_mul(self.width as u128);
        self.len() <= LIMIT as u128 && bytes <= BYTES_LIMIT as u128
    }

    fn texts(&self) -> Vec<String> {
        let sign = if self.to < self.from { -1 } else { 1 };
        (0..self.len() as i128)
            .map(|i| i128::from(self.from) + sign * i * i128::from(self.step))
            .map(|value| match self.letters {
                true => char::from(value as u8).to_string(),
                false => format!("{value:0width$}", width = self.width),
            })
            .collect()
    }
}

/// A whole number without a plus sign or blanks.
fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pattern: &str, expected: &[&str]) {
        assert_eq!(expand(pattern).unwrap(), expected, "{pattern}");
    }

    #[test]
    fn ranges_count_up_and_down_with_padding() {
        check(
            "s/{08..11}.tar",
            &["s/08.tar", "s/09.tar", "s/10.tar", "s/11.tar"],
        );
        check("{8..11}", &["8", "9", "10", "11"]);
        check("{00..2}", &["00", "01", "02"]);
        check("{3..1}", &["3", "2", "1"]);
        check("{0..10..5}", &["0", "5", "10"]);
        check("{10..0..-5}", &["10", "5", "0"]);
        check("{-1..1}", &["-1", "0", "1"]);
        check("{a..c}", &["a", "b", "c"]);
        check("{5..5}", &["5"]);
    }

    #[test]
    fn alternatives_and_several_groups_vary_the_last_fastest() {
        check("{a,b}{0..1}", &["a0", "a1", "b0", "b1"]);
        check("x{,y}", &["x", "xy"]);
        check("{a,b{1..2},{c,d}}", &["a", "b1", "b2", "c", "d"]);
    }

    #[test]
    fn what_is_no_group_stays_as_it_is() {
        for literal in [
            "",
            "a.tar",
            "{}",
            "{a}",
            "{1..x}",
            "{1...3}",
            "{..}",
            "}{",
            "{a",
            "{1..2..3..4}",
            "{+1..2}",
        ] {
            check(literal, &[literal]);
        }
        check("{{0..1}", &["{0", "{1"]);
        check("{x}{0..1}", &["{x}0", "{x}1"]);
    }

    #[test]
    fn a_million_names_are_the_limit() {
        for pattern in [
            "{0..99999999999}",
            "{0..9999}{0..9999}",
            "{-9223372036854775808..9223372036854775807}",
        ] {
            assert!(matches!(expand(pattern), Err(Error::Usage(_))), "{pattern}");
        }
        // Few enough, but each is long: by what stands around the braces, or by the zeros in them.
        let (around, padded) = (
            format!("{{0..999999}}{}", "x".repeat(10_000)),
            format!("{{{}0..999999}}", "0".repeat(10_000)),
        );
        for pattern in [around, padded] {
            assert!(matches!(expand(&pattern), Err(Error::Usage(_))));
        }
        assert_eq!(expand("{0..999999}").unwrap().len(), 1_000_000);
    }

    proptest! {
        #[test]
        fn a_range_gives_every_number_once(from in 0u32..2000, count in 0u32..300, width in 1usize..7) {
            let (first, last) = (format!("{from:0width$}"), format!("{:0width$}", from + count));
            let pattern = format!("p{{{first}..{last}}}s");
            let padded = first.len() > 1 && first.starts_with('0');
            let width = if padded { first.len().max(last.len()) } else { 0 };
            let expected: Vec<_> = (from..=from + count).map(|i| format!("p{i:0width$}s")).collect();
            prop_assert_eq!(expand(&pattern).unwrap(), expected);
        }

        #[test]
        fn any_text_is_expanded_without_a_panic(pattern in r"[{}.,0-9a-c\-é]{0,24}") {
            if let Ok(names) = expand(&pattern) {
                prop_assert!(!names.is_empty());
            }
        }
    }
}
