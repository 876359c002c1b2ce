//! The channel.

#[path = "../../../src/exchange/channel.rs"]
mod channel;
#[path = "../../../src/exchange/frame.rs"]
mod frame;
#[path = "../../../src/exchange/receiver.rs"]
mod receiver;
#[path = "../../../src/exchange/record_shape.rs"]
mod record_shape;
#[path = "../../../src/exchange/segment.rs"]
mod segment;
#[path = "../../../src/exchange/sender.rs"]
mod sender;

pub use channel::{ChannelOptions, channel};
pub use frame::{Delivery, InBand};
pub use receiver::Receiver;
pub use record_shape::RecordShape;
pub use sender::Sender;
