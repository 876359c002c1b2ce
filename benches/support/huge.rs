//! Cells of a hand-written table in huge pages, as the engine's state has them: the limit has no fewer advantages.

use bytemuck::Pod;
use memmap2::{Advice, MmapMut};
use std::marker::PhantomData;

/// So many zeroed cells. To look at them is to check lengths, so do it once a batch.
pub struct HugeCells<T> {
    map: MmapMut,
    cell: PhantomData<T>,
}

impl<T: Pod> HugeCells<T> {
    /// As many cells as that.
    pub fn new(len: usize) -> Self {
        let map = MmapMut::map_anon(len * size_of::<T>()).expect("the machine has memory for the table");
        // Without transparent huge pages the figures are those of small pages.
        drop(map.advise(Advice::HugePage));
        Self { map, cell: PhantomData }
    }

    /// All of them.
    pub fn all(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map)
    }
}
