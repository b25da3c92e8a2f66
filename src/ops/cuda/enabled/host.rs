//! Page-locked host memory and events: what uploads and downloads beside the work are made of.

use cudarc::driver::{CudaEvent, PinnedHostSlice, result, sys};

use super::{CudaBackend, failed, transfers};
use crate::error::{Error, Result};

/// A point in a card's work. Waiting for one that was never recorded does not wait.
#[derive(Debug)]
pub struct Event(CudaEvent);

/// Page-locked host memory for uploads or for downloads, not for both at a time.
///
/// cudarc's own type waits by events that are switched off here, so this one keeps its own.
#[derive(Debug)]
pub struct Pinned {
    memory: PinnedHostSlice<u8>,
    /// The last transfer to or from the memory.
    busy: Event,
}

impl Event {
    fn wait(&self) -> Result<()> {
        self.0
            .synchronize()
            .map_err(|e| failed("waiting for a transfer", e))
    }
}

impl Pinned {
    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// The bytes, when no transfer uses them any more.
    ///
    /// # Errors
    /// Those of the device, of work before the transfer included.
    pub fn bytes(&self) -> Result<&[u8]> {
        self.busy.wait()?;
        self.memory
            .as_slice()
            .map_err(|e| failed("reading page-locked memory", e))
    }

    /// The bytes for writing, when no transfer uses them any more.
    ///
    /// # Errors
    /// As [`Pinned::bytes`].
    pub fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.busy.wait()?;
        self.memory
            .as_mut_slice()
            .map_err(|e| failed("writing page-locked memory", e))
    }

    /// The bytes as the end of a transfer; the host does not look at them, so nothing is waited for.
    fn range(&mut self, start: usize, bytes: usize) -> Result<&mut [u8]> {
        let held = self.len();
        let all = self
            .memory
            .as_mut_slice()
            .map_err(|e| failed("reaching page-locked memory", e))?;
        all.get_mut(start..)
            .and_then(|rest| rest.get_mut(..bytes))
            .ok_or_else(|| {
                Error::shape(
                    "a transfer",
                    format!("bytes {start}..{} of the buffer", start + bytes),
                    format!("{held} bytes"),
                )
            })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A failure has been or will be reported by the next call on the stream; the memory must not go before the transfer.
        let _ = self.busy.wait();
    }
}

impl CudaBackend {
    /// Page-locked host memory of this many bytes, zeroed.
    ///
    /// # Errors
    /// Where there is not enough.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned> {
        let busy = self.event()?;
        // SAFETY: filled below before anything reads it.
        let mut memory = unsafe {
            self.stream
                .context()
                .alloc_pinned_with_flags::<u8>(bytes.max(1), 0)
        }
        .map_err(|e| failed(&format!("page-locking {bytes} bytes"), e))?;
        memory
            .as_mut_slice()
            .map_err(|e| failed("writing page-locked memory", e))?
            .fill(0);
        Ok(Pinned { memory, busy })
    }

    /// A new event, not recorded yet.
    ///
    /// # Errors
    /// Those of the device.
    pub fn event(&self) -> Result<Event> {
        // Blocking: a thread that waits leaves its core to the decoders.
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        self.stream
            .context()
            .new_event(Some(flags))
            .map(Event)
            .map_err(|e| failed("making an event", e))
    }

    /// Records the work given to the stream so far.
    ///
    /// # Errors
    /// Those of the device.
    pub fn record(&self, event: &Event) -> Result<()> {
        event
            .0
            .record(&self.stream)
            .map_err(|e| failed("recording an event", e))
    }

    /// Uploads the first `bytes` of `from` to the address `to`, beside the stream's work: starts after `after`, and what is put on
    /// the stream from now on sees it. `to` is a live allocation of this backend with room for them.
    ///
    /// # Errors
    /// Where `from` has fewer bytes; those of the device.
    pub fn upload_beside(
        &self,
        from: &mut Pinned,
        bytes: usize,
        to: u64,
        after: &Event,
    ) -> Result<()> {
        let what = |e| failed("an upload", e);
        self.bind()?;
        let source = from.range(0, bytes)?;
        self.beside.wait(&after.0).map_err(what)?;
        transfers::count_up(bytes);
        // SAFETY: the destination is the caller's contract; the source is not written or freed before `busy` has passed.
        unsafe { result::memcpy_htod_async(to, source, self.beside.cu_stream()) }.map_err(what)?;
        from.busy.0.record(&self.beside).map_err(what)?;
        self.stream.wait(&from.busy.0).map_err(what)
    }

    /// Puts a download of `bytes` from the address `from` to the bytes of `into` from `start` on, in the stream's order. `from` is
    /// within a live allocation of this backend.
    ///
    /// # Errors
    /// Where `into` has fewer bytes; those of the device.
    pub fn download_later(
        &self,
        from: u64,
        into: &mut Pinned,
        start: usize,
        bytes: usize,
    ) -> Result<()> {
        let what = |e| failed("a download", e);
        self.bind()?;
        let target = into.range(start, bytes)?;
        transfers::count_down(bytes);
        // SAFETY: the source is the caller's contract; the target is not read or freed before `busy` has passed.
        unsafe { result::memcpy_dtoh_async(target, from, self.stream.cu_stream()) }
            .map_err(what)?;
        into.busy.0.record(&self.stream).map_err(what)
    }
}
