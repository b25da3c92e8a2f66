//! A tower on a GPU: batches go up while the one before is computed.
//!
//! Two slots of page-locked memory and of device memory take turns. Giving a batch to [`OnCard::start`] copies it into a slot,
//! starts its upload beside the stream and puts the forward and the download of its rows on the stream, all without waiting;
//! [`Pending::finish`] waits for the rows. With one batch pending while the next is started, the card always has work.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};

use super::tower::VisionTower;
use super::{Embedded, Pending};
use crate::error::{Error, Result};
use crate::ops::cuda::transfers::{self, Purpose};
use crate::ops::cuda::{CudaBackend, Event, Pinned};
use crate::ops::{self, PixelNorm};

/// Batches in flight: one computed, one uploaded.
const SLOTS: usize = 2;

pub(super) struct OnCard {
    card: &'static CudaBackend,
    staging: Mutex<Staging>,
}

#[derive(Default)]
struct Staging {
    slots: Vec<Slot>,
    next: usize,
    /// Page-locked memory for rows that no batch uses.
    outputs: Vec<Pinned>,
}

/// Where a batch's pixels pass through.
struct Slot {
    /// Room for as many images as the largest batch so far.
    images: usize,
    host: Pinned,
    /// u8 `[images, s, s, 3]`
    device: Tensor,
    address: u64,
    /// The forward that read the device's memory last.
    consumed: Event,
}

impl Slot {
    fn new(card: &CudaBackend, images: usize, s: usize) -> Result<Slot> {
        let (device, address) = card.result(&[images, s, s, 3], DType::U8)?;
        // Allocated in the order of the stream, written beside it.
        card.synchronize()?;
        Ok(Slot {
            images,
            host: card.pinned(images * s * s * 3)?,
            device,
            address,
            consumed: card.event()?,
        })
    }
}

impl Staging {
    fn slot(&mut self, card: &CudaBackend, images: usize, s: usize) -> Result<&mut Slot> {
        let at = self.next;
        self.next = (self.next + 1) % SLOTS;
        match self.slots.get(at) {
            Some(slot) if slot.images >= images => {}
            Some(_) => self.slots[at] = Slot::new(card, images, s)?,
            None => self.slots.push(Slot::new(card, images, s)?),
        }
        Ok(&mut self.slots[at])
    }

    fn output(&mut self, card: &CudaBackend, bytes: usize) -> Result<Pinned> {
        match self.outputs.pop() {
            Some(output) if output.len() >= bytes => Ok(output),
            _ => card.pinned(bytes),
        }
    }
}

impl OnCard {
    /// For a device that is a card; none for a CPU.
    pub(super) fn of(device: &candle_core::Device) -> Result<Option<OnCard>> {
        if !device.is_cuda() {
            return Ok(None);
        }
        Ok(Some(OnCard {
            card: CudaBackend::of(device)?,
            staging: Mutex::default(),
        }))
    }

    /// Starts on a batch of images of `s²·3` bytes each; rows of `dtype` come of it.
    pub(super) fn start<'a>(
        &'a self,
        tower: &VisionTower,
        norm: &PixelNorm,
        images: &[&[u8]],
        dtype: DType,
    ) -> Result<Pending<'a>> {
        let (n, s) = (images.len(), tower.config().image_size);
        let (image, d) = (s * s * 3, tower.config().projection_dim);
        if n == 0 || images.iter().any(|bytes| bytes.len() != image) {
            let got: Vec<usize> = images.iter().map(|bytes| bytes.len()).collect();
            return Err(Error::shape(
                "embed",
                format!("images of {image} bytes"),
                format!("{got:?}"),
            ));
        }
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = staging.slot(self.card, n, s)?;
        let places = slot.host.bytes_mut()?.chunks_exact_mut(image);
        places
            .zip(images)
            .for_each(|(place, bytes)| place.copy_from_slice(bytes));
        transfers::during(Purpose::Pixels, || {
            self.card
                .upload_beside(&mut slot.host, n * image, slot.address, &slot.consumed)
        })?;
        let pixels = slot.device.narrow(0, 0, n)?;
        let embeddings = tower.forward(&pixels, norm)?;
        self.card.record(&slot.consumed)?;

        let (rows, bad) = ops::normalize::normalize_tensor(&embeddings, dtype)?;
        let row_bytes = n * d * dtype.size_in_bytes();
        let mut output = staging.output(self.card, row_bytes + n)?;
        let (rows, rows_at) = self.card.operand(&rows)?;
        let (_bad, bad_at) = self.card.operand(&bad)?;
        transfers::during(Purpose::Rows, || {
            self.card
                .download_later(rows_at, &mut output, 0, row_bytes)?;
            self.card.download_later(bad_at, &mut output, row_bytes, n)
        })?;
        drop(staging);
        Ok(Pending::later(move || {
            let bytes = output.bytes()?;
            let embedded = Embedded {
                rows: floats(&bytes[..row_bytes], dtype),
                good: bytes[row_bytes..][..n]
                    .iter()
                    .map(|bad| *bad == 0)
                    .collect(),
            };
            let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            staging.outputs.push(output);
            Ok((embedded, Some(rows)))
        }))
    }

    /// The largest batch of at most `wanted` images for which there is memory with all slots in use: halved until it fits.
    pub(super) fn batch_that_fits(
        &self,
        tower: &VisionTower,
        norm: &PixelNorm,
        wanted: usize,
        dtype: DType,
    ) -> Result<usize> {
        let s = tower.config().image_size;
        let black = vec![0u8; s * s * 3];
        let mut n = wanted.max(1);
        loop {
            let images = vec![black.as_slice(); n];
            let all_slots = || -> Result<()> {
                let pending: Result<Vec<Pending>> = (0..SLOTS)
                    .map(|_| self.start(tower, norm, &images, dtype))
                    .collect();
                pending?
                    .into_iter()
                    .try_for_each(|pending| pending.finish().map(drop))
            };
            match all_slots() {
                Ok(()) => return Ok(n),
                Err(e) if e.is_out_of_memory() && n > 1 => {
                    *self.staging.lock().unwrap_or_else(PoisonError::into_inner) =
                        Staging::default();
                    self.card.release_cached()?;
                    n = n.div_ceil(2);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Values of f16 or f32 in the device's byte order, which is little-endian.
fn floats(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F16 => bytes
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_the_device_wrote_them() {
        let values = [1.0f32, -0.5, 6.103_515_6e-5, 0.333_251_95];
        let half: Vec<u8> = values
            .iter()
            .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
            .collect();
        let single: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(floats(&half, DType::F16), values);
        assert_eq!(floats(&single, DType::F32), values);
    }
}
