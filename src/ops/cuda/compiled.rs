//! What this build has for GPUs, and which cards that runs on.

/// What a build with the feature `cuda` has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Ten times the compute capabilities that machine code was made for; PTX of 8.0 comes on top.
    pub code: &'static [u32],
    /// Ten times the capability that was asked for: candle's own kernels are compiled for it alone.
    pub asked: u32,
    /// Release of the CUDA toolkit.
    pub toolkit: (u32, u32),
    /// What the compiler said, a line a kernel and code: file, kernel, code (`sm_80`), registers a thread, static shared bytes
    /// a block, stack bytes, bytes of spill stores, bytes of spill loads.
    pub resources: &'static str,
}

impl Compiled {
    /// Whether this build runs on a card, and where not, what to rebuild.
    ///
    /// The kernels here run on every card of compute capability 8.0 and later. candle's come as PTX of the capability that was asked for:
    /// up to 8.9 it runs on that and all later cards; from 9.0 on it is compiled with the features of that card alone.
    ///
    /// # Errors
    /// The reason in words; `card` is major and minor of the card, `driver` the CUDA release that the driver runs.
    pub fn fits(&self, card: (u32, u32), driver: (u32, u32)) -> Result<(), String> {
        let (major, minor) = card;
        if card < (8, 0) {
            return Err(format!(
                "compute capability {major}.{minor} is older than the kernels' tensor-core instructions, which need 8.0; no \
                 build runs on it, use --device cpu"
            ));
        }
        if driver < (self.toolkit.0, 0) {
            let ((has, minor), (needs, _)) = (driver, self.toolkit);
            return Err(format!(
                "its driver runs CUDA {has}.{minor} and this build is of CUDA {needs}; update the driver (CUDA 13 wants 580 or \
                 later), or rebuild with a toolkit of CUDA {has}"
            ));
        }
        let (card, asked) = (major * 10 + minor, self.asked);
        let runs = match asked {
            // PTX without features of one card.
            ..90 => card >= asked,
            // nvcc's suffix a: that card alone.
            90..=120 => card == asked,
            // Suffix f: the family.
            _ => card >= asked && card / 10 == asked / 10,
        };
        if runs {
            return Ok(());
        }
        let age = if card < asked { "older" } else { "newer" };
        Err(format!(
            "compute capability {major}.{minor} is {age} than the {}.{} that this build was compiled for; rebuild with \
             `CUDA_COMPUTE_CAP={card} cargo build --release --features cuda`, or with 80 for a build that runs on every card from \
             8.0 on",
            asked / 10,
            asked % 10
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(asked: u32) -> Compiled {
        Compiled {
            code: &[80, 90],
            asked,
            toolkit: (13, 0),
            resources: "",
        }
    }

    #[test]
    fn the_portable_build_runs_on_every_card_from_ampere_on() {
        for card in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            assert_eq!(compiled(80).fits(card, (13, 0)), Ok(()), "{card:?}");
        }
    }

    #[test]
    fn a_build_for_hopper_says_what_to_rebuild_for_older_and_newer_cards() {
        assert_eq!(compiled(90).fits((9, 0), (13, 1)), Ok(()));
        for (card, age, cap) in [((8, 0), "older", "80"), ((10, 0), "newer", "100")] {
            let reason = compiled(90).fits(card, (13, 0)).unwrap_err();
            let (major, minor) = card;
            assert!(
                reason.starts_with(&format!(
                    "compute capability {major}.{minor} is {age} than the 9.0 that"
                )),
                "{reason}"
            );
            assert!(
                reason.contains(&format!(
                    "`CUDA_COMPUTE_CAP={cap} cargo build --release --features cuda`"
                )),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_build_for_a_later_ampere_does_not_run_on_the_first() {
        assert_eq!(compiled(86).fits((8, 9), (13, 0)), Ok(()));
        assert_eq!(compiled(86).fits((9, 0), (13, 0)), Ok(()));
        assert!(
            compiled(86)
                .fits((8, 0), (13, 0))
                .unwrap_err()
                .contains("CUDA_COMPUTE_CAP=80")
        );
    }

    #[test]
    fn a_card_without_the_instructions_is_refused_whatever_was_compiled() {
        let reason = compiled(80).fits((7, 5), (13, 0)).unwrap_err();
        assert!(
            reason.contains("7.5") && reason.contains("--device cpu"),
            "{reason}"
        );
    }

    #[test]
    fn an_old_driver_is_named_with_what_it_runs() {
        let reason = compiled(80).fits((9, 0), (12, 4)).unwrap_err();
        assert!(
            reason.contains("runs CUDA 12.4") && reason.contains("580"),
            "{reason}"
        );
    }
}
