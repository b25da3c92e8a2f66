//! Powers of two moved from a LayerNorm into the linear layer that follows it.
//!
//! `W · (g ∘ z + b)` is `(W ∘ s) · ((g / s) ∘ z + b / s)` for any column scales s. In the weights of some towers a few channels of
//! g are many times as large as the others; rows of such values lose what is small in them where all values of a row
//! share one step, as in 8 bits. Scales that share the sizes between both sides (SmoothQuant, Xiao et al. 2023, with a
//! migration strength of 1/2) make the steps of both small. Here they are powers of two, so that in floating point not a bit
//! of any product changes.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// The scales `[w]` for a norm's weight g and bias b `[w]` and the linear layer's weight `[out, w]`, all f32 on the CPU: between
/// 2⁻¹⁶ and 2¹⁶, 1 for channels within a factor of four of the middle one.
pub(super) fn scales(weight: &Tensor, bias: &Tensor, linear: &Tensor) -> Result<Tensor> {
    // A normalised value is rarely above three: what a channel reaches.
    let reached = ((weight.abs()? * 3.0)? + bias.abs()?)?.to_vec1::<f32>()?;
    let columns = linear.abs()?.max(0)?.to_vec1::<f32>()?;
    let logs: Vec<f32> = reached
        .iter()
        .zip(&columns)
        .map(|(x, w)| 0.5 * (x / w).log2())
        .collect();
    let mut sorted: Vec<f32> = logs.iter().copied().filter(|l| l.is_finite()).collect();
    sorted.sort_by(f32::total_cmp);
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    // A channel of zeros on either side has nothing to share.
    let scale = |log: &f32| match log.is_finite() {
        true => (log - middle).trunc().clamp(-16.0, 16.0).exp2(),
        false => 1.0,
    };
    let scales: Vec<f32> = logs.iter().map(scale).collect();
    Ok(Tensor::new(scales, &Device::Cpu)?)
}

/// Weight and bias of a norm and the weight of the linear layer after it, with the scales moved; f32.
///
/// # Errors
/// Tensor errors.
pub(super) fn balanced(weight: &Tensor, bias: &Tensor, linear: &Tensor) -> Result<[Tensor; 3]> {
    let [weight, bias, linear] = [weight, bias, linear].map(|t| t.to_dtype(DType::F32));
    let (weight, bias, linear) = (weight?, bias?, linear?);
    let scales = scales(&weight, &bias, &linear)?;
    Ok([
        (weight / &scales)?,
        (bias / &scales)?,
        linear.broadcast_mul(&scales)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::D;

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn products_keep_every_bit_and_large_channels_shrink() {
        let (rows, out, width) = (5, 7, 48);
        let mut g = vec![1f32; width];
        (g[3], g[40], g[11]) = (64.0, -50.0, 0.0);
        let g = Tensor::new(g, &Device::Cpu).unwrap();
        let b = Tensor::randn(0f32, 0.1, width, &Device::Cpu).unwrap();
        let linear = Tensor::randn(0f32, 1.0, (out, width), &Device::Cpu).unwrap();
        let z = Tensor::randn(0f32, 1.0, (rows, width), &Device::Cpu).unwrap();
        // Products one by one, since sums may be made in another order.
        let products = |g: &Tensor, b: &Tensor, linear: &Tensor| {
            let x = z.broadcast_mul(g).unwrap().broadcast_add(b).unwrap();
            x.unsqueeze(1)
                .unwrap()
                .broadcast_mul(&linear.unsqueeze(0).unwrap())
                .unwrap()
        };
        let [g2, b2, linear2] = balanced(&g, &b, &linear).unwrap();
        assert_eq!(
            values(&products(&g, &b, &linear)),
            values(&products(&g2, &b2, &linear2))
        );
        let most = |t: &Tensor| t.abs().unwrap().max(D::Minus1).unwrap().to_scalar::<f32>();
        let (before, after) = (most(&g).unwrap(), most(&g2).unwrap());
        assert!(after <= before / 4.0, "{after} of {before}");
        let ones = values(&g2).iter().filter(|x| **x == 1.0).count();
        assert!(ones > width / 2, "{ones} channels stay as they are");
    }

    #[test]
    fn zeros_leave_everything_as_it_is() {
        let zeros = Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap();
        let linear = Tensor::zeros((3, 8), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(
            values(&scales(&zeros, &zeros, &linear).unwrap()),
            vec![1.0; 8]
        );
    }
}
