//! Plain loops, compiled for the widest vectors that the processor has.

/// Calls `f`, compiled with AVX-512 or AVX2 and FMA where the processor has them.
///
/// Only what is inlined into `f` is: mark it, and the functions and closures that it calls, `#[inline(always)]`. A compiler may not
/// fuse multiplications and additions by itself, so the results are the same bits either way.
#[inline]
pub(crate) fn widest<R>(mut f: impl FnMut() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the processor has the four, which is all that the function asks for.
            return unsafe { x86::avx512(f) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both, which is all that the function asks for.
            return unsafe { x86::avx2(f) };
        }
    }
    f()
}

/// `FnMut`, because the call of a closure through `FnOnce` is a function of its own that is not inlined.
#[cfg(target_arch = "x86_64")]
mod x86 {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) fn avx512<R>(mut f: impl FnMut() -> R) -> R {
        f()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2<R>(mut f: impl FnMut() -> R) -> R {
        f()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_gives_the_same_bits_at_any_width() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        #[inline(always)]
        fn polynomial(x: &[f32]) -> Vec<u32> {
            x.iter()
                .map(|x| (x * x * 0.3 + x / 7.0 - 1.0).to_bits())
                .collect()
        }
        assert_eq!(
            widest(
                #[inline(always)]
                || polynomial(&x)
            ),
            polynomial(&x)
        );
    }
}
