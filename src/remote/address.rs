//! From an address to a store: `s3://bucket/prefix`, `memory:///prefix`, what object_store knows.

use super::error::RemoteError;
use object_store::ObjectStore;
use object_store::path::Path;
use std::sync::Arc;

/// The store an address names, and the prefix in it. Keys and endpoints come from the environment, under the names that the
/// provider's own tools use (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, ...).
pub(super) fn parse(address: &str) -> Result<(Arc<dyn ObjectStore>, Path), RemoteError> {
    let refused = |reason: String| RemoteError::Address { address: address.to_owned(), reason };
    let url = url::Url::parse(address).map_err(|error| refused(error.to_string()))?;
    let environment = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let (store, prefix) =
        object_store::parse_url_opts(&url, environment).map_err(|error| refused(error.to_string()))?;
    Ok((store.into(), prefix))
}
