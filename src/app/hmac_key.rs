//! Reads the key of the fingerprints in audit records.

use std::{io, mem};

use super::StartError;
use crate::{
    base::{files, secret::hmac_key},
    observe::audit::{self, HmacKey},
};

/// Reads the key, if one is configured.
pub(super) fn read(audit: &audit::Settings) -> Result<Option<HmacKey>, StartError> {
    let Some(file) = &audit.hmac_key else { return Ok(None) };
    let unusable = |error: io::Error| StartError::HmacKey(file.path.clone(), error);
    let mut key = files::read(&file.path, files::MAX_BYTES).map_err(|error| unusable(error.into()))?;
    hmac_key::check(&key.bytes).map_err(|error| unusable(io::Error::other(error)))?;
    Ok(Some(HmacKey::new(file.id.clone(), mem::take(&mut *key.bytes))))
}
