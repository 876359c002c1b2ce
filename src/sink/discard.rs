//! A sink that forgets everything: for jobs that are only measured.

use super::writer::{Sink, SinkContext, SinkError, SinkWriter};
use crate::record::Stamp;

/// Takes records of any type and drops them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

/// Drops the records of one subtask.
#[derive(Debug)]
pub struct DiscardWriter;

impl<V: 'static> Sink<V> for Discard {
    type Writer = DiscardWriter;

    fn open(&self, _: u32, _: u32) -> Result<DiscardWriter, SinkError> {
        Ok(DiscardWriter)
    }
}

impl<V: 'static> SinkWriter<V> for DiscardWriter {
    #[inline]
    fn write(&mut self, _: &mut SinkContext<'_>, _: &Stamp, _: &V) -> Result<(), SinkError> {
        Ok(())
    }
}
