//! A sink that calls a function of the host program.
//!
//! At least once: after a restart the function is called again for records behind the last checkpoint.

use super::writer::{Sink, SinkContext, SinkError, SinkWriter};
use crate::record::Stamp;

/// Calls the function once per record, on the slot's thread: it must be short and must not block. Each subtask has its own clone.
#[derive(Clone, Copy, Debug)]
pub struct Callback<F>(F);

/// Calls the function for the records of one subtask.
#[derive(Debug)]
pub struct CallbackWriter<F>(F);

impl<F> Callback<F> {
    /// A sink that calls `function` with the stamp and the record.
    pub fn new<V>(function: F) -> Self
    where
        F: FnMut(&Stamp, &V) + Clone + Send + Sync + 'static,
    {
        Self(function)
    }
}

impl<V: 'static, F: FnMut(&Stamp, &V) + Clone + Send + Sync + 'static> Sink<V> for Callback<F> {
    type Writer = CallbackWriter<F>;

    fn open(&self, _: u32, _: u32) -> Result<CallbackWriter<F>, SinkError> {
        Ok(CallbackWriter(self.0.clone()))
    }
}

impl<V: 'static, F: FnMut(&Stamp, &V) + 'static> SinkWriter<V> for CallbackWriter<F> {
    #[inline]
    fn write(&mut self, _: &mut SinkContext<'_>, stamp: &Stamp, record: &V) -> Result<(), SinkError> {
        (self.0)(stamp, record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Rig, stamp};
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_function_is_called_once_per_record() {
        let (sender, received) = mpsc::channel();
        let sink = Callback::new(move |_: &Stamp, record: &u32| sender.send(*record).unwrap());
        let mut writer = sink.open(0, 1).unwrap();
        let mut rig = Rig::new();
        for record in [3, 4] {
            rig.with(|cx| writer.write(cx, &stamp(), &record)).unwrap();
        }
        assert_eq!(received.try_iter().collect::<Vec<_>>(), [3, 4]);
    }
}
