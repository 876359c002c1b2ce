//! Reading and writing event descriptors.

use crate::event;
use std::os::fd::AsFd;

/// Adds to the counter.
pub fn write(fd: impl AsFd, bytes: &[u8; 8]) -> std::io::Result<usize> {
    event::add(fd, u64::from_ne_bytes(*bytes));
    Ok(8)
}

/// Takes the counter.
pub fn read(fd: impl AsFd, into: &mut [u8; 8]) -> std::io::Result<usize> {
    match event::take(fd) {
        0 => Err(std::io::ErrorKind::WouldBlock.into()),
        value => {
            *into = value.to_ne_bytes();
            Ok(8)
        }
    }
}
