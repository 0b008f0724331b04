//! API keys: known by their hashes alone, each with a name, what it may do, and how much of it a minute.

use crate::http::error::{ApiError, ErrorKind};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Seconds over which a quota is counted.
const MINUTE: f64 = 60.0;

/// Why a file of keys is refused.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Not TOML of the kind.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Nobody could ask anything.
    #[error("expected at least one [[key]], found none")]
    Empty,
    /// Two keys of one name, or of one hash.
    #[error("key `{0}`: expected its name and its hash once, found one of them twice")]
    Twice(String),
    /// Not a hash.
    #[error("key `{0}`: `sha256`: expected 64 hexadecimal digits")]
    Hash(String),
    /// A quota of nothing.
    #[error("key `{0}`: expected quotas above 0")]
    Quota(String),
}

/// The keys of a server.
pub struct Keys {
    keys: Vec<Key>,
}

struct Key {
    name: String,
    hash: [u8; 32],
    manages: bool,
    requests: Option<Quota>,
    tokens: Option<Quota>,
}

/// What a client may use a minute, as a bucket that fills evenly.
struct Quota {
    per_minute: f64,
    left: Mutex<(f64, Instant)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    #[serde(default)]
    manage: bool,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u32>,
}

/// Who asks, by a key.
#[derive(Clone, Copy)]
pub(crate) struct Holder<'a> {
    key: &'a Key,
}

impl Keys {
    /// Reads the text of a file of keys.
    ///
    /// # Errors
    /// [`KeysError`] naming the key.
    pub fn parse(text: &str) -> Result<Keys, KeysError> {
        let file: File = toml::from_str(text)?;
        let mut keys: Vec<Key> = Vec::new();
        for entry in file.key {
            let hash = hash_of_hex(&entry.sha256).ok_or_else(|| KeysError::Hash(entry.name.clone()))?;
            if keys.iter().any(|key| key.name == entry.name || key.hash == hash) {
                return Err(KeysError::Twice(entry.name));
            }
            if entry.requests_per_minute == Some(0) || entry.tokens_per_minute == Some(0) {
                return Err(KeysError::Quota(entry.name));
            }
            keys.push(Key {
                name: entry.name,
                hash,
                manages: entry.manage,
                requests: entry.requests_per_minute.map(Quota::new),
                tokens: entry.tokens_per_minute.map(Quota::new),
            });
        }
        if keys.is_empty() {
            return Err(KeysError::Empty);
        }
        Ok(Keys { keys })
    }

    /// The holder of the key in an `Authorization` header.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`] without a key that is known.
    pub(crate) fn holder(&self, authorization: Option<&str>) -> Result<Holder<'_>, ApiError> {
        let refused = |message: &str| ApiError::new(ErrorKind::Unauthorized, message);
        let given = authorization.ok_or_else(|| refused("expected `Authorization: Bearer KEY`, found no key"))?;
        let given = match given.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
            _ => return Err(refused("expected `Authorization: Bearer KEY`, found something else")),
        };
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        // Every key is compared to its end, so that time tells nothing of them.
        let mut found = None;
        for key in &self.keys {
            let difference = key.hash.iter().zip(&given).fold(0, |difference, (a, b)| difference | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(Holder { key });
            }
        }
        found.ok_or_else(|| refused("the key is not known"))
    }
}

impl<'a> Holder<'a> {
    /// The key's name.
    pub(crate) fn name(self) -> &'a str {
        &self.key.name
    }

    /// Checks that it may change models.
    ///
    /// # Errors
    /// [`ErrorKind::Forbidden`] if it may not.
    pub(crate) fn check_manages(self) -> Result<(), ApiError> {
        if self.key.manages {
            return Ok(());
        }
        Err(ApiError::new(ErrorKind::Forbidden, "the key may not manage models: `manage` is not set for it"))
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if a quota is used up.
    pub(crate) fn begin(self) -> Result<(), ApiError> {
        let wait = |quota: &Option<Quota>, cost| quota.as_ref().map_or(Ok(()), |quota| quota.take(cost));
        let refused = |what: &str, seconds: f64| ApiError {
            retry_after_s: Some(seconds.ceil().max(1.0) as u64),
            ..ApiError::new(ErrorKind::Overloaded, format!("the key's quota of {what} a minute is used up"))
        };
        // Tokens are known, and taken, later; who has none left waits.
        wait(&self.key.tokens, 0.0).map_err(|seconds| refused("tokens", seconds))?;
        wait(&self.key.requests, 1.0).map_err(|seconds| refused("requests", seconds))
    }

    /// Counts tokens, of which a request may take more than are left: the next one waits longer.
    pub(crate) fn use_tokens(self, tokens: usize) {
        if let Some(quota) = &self.key.tokens {
            quota.lock().0 -= tokens as f64;
        }
    }
}

impl Quota {
    fn new(per_minute: u32) -> Quota {
        let per_minute = f64::from(per_minute);
        Quota { per_minute, left: Mutex::new((per_minute, Instant::now())) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (f64, Instant)> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `cost` if there is more than nothing left; else the seconds until there is.
    fn take(&self, cost: f64) -> Result<(), f64> {
        let mut left = self.lock();
        let now = Instant::now();
        let gained = now.duration_since(left.1).as_secs_f64() * self.per_minute / MINUTE;
        *left = ((left.0 + gained).min(self.per_minute), now);
        let needed = cost.max(f64::MIN_POSITIVE);
        if left.0 >= needed {
            left.0 -= cost;
            return Ok(());
        }
        Err((needed - left.0) * MINUTE / self.per_minute)
    }
}

fn hash_of_hex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(key: &str) -> String {
        Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn keys(text: &str) -> Keys {
        Keys::parse(text).unwrap()
    }

    #[test]
    fn keys_are_found_by_their_hash_and_nothing_else_is() {
        let text = format!(
            "[[key]]\nname = 'a'\nsha256 = '{}'\n[[key]]\nname = 'b'\nsha256 = '{}'\nmanage = true\n",
            hex("first"),
            hex("second").to_uppercase()
        );
        let keys = keys(&text);
        let name = |header: &str| keys.holder(Some(header)).map(|holder| holder.name().to_owned());
        assert_eq!(name("Bearer first").unwrap(), "a");
        assert_eq!(name("bearer  second").unwrap(), "b");
        for wrong in ["Bearer third", "Bearer ", "Bearer", "first", "Basic first", &format!("Bearer {}", hex("first"))]
        {
            assert_eq!(name(wrong).unwrap_err().kind, ErrorKind::Unauthorized, "{wrong}");
        }
        assert!(keys.holder(None).is_err());
        assert!(keys.holder(Some("Bearer second")).unwrap().check_manages().is_ok());
        assert_eq!(keys.holder(Some("Bearer first")).unwrap().check_manages().unwrap_err().kind, ErrorKind::Forbidden);
    }

    #[test]
    fn quotas_refuse_with_the_time_until_there_is_more() {
        let text =
            format!("[[key]]\nname = 'a'\nsha256 = '{}'\nrequests_per_minute = 2\ntokens_per_minute = 100\n", hex("k"));
        let keys = keys(&text);
        let holder = keys.holder(Some("Bearer k")).unwrap();
        holder.begin().unwrap();
        holder.begin().unwrap();
        let refused = holder.begin().unwrap_err();
        assert_eq!((refused.kind, refused.retry_after_s), (ErrorKind::Overloaded, Some(30)));
        holder.use_tokens(300);
        let refused = holder.begin().unwrap_err();
        assert!(refused.message.contains("tokens") && refused.retry_after_s == Some(120), "{refused:?}");
    }

    #[test]
    fn files_that_make_no_sense_are_refused_by_name() {
        let hash = hex("k");
        let entry = |more: &str| format!("[[key]]\nname = 'a'\nsha256 = '{hash}'\n{more}\n");
        for (text, expected) in [
            (String::new(), "at least one"),
            (entry("surprise = 1"), "unknown field"),
            (entry("tokens_per_minute = 0"), "quotas"),
            (entry("") + &entry(""), "twice"),
            ("[[key]]\nname = 'a'\nsha256 = 'abc'\n".to_owned(), "64"),
            (format!("[[key]]\nname = 'a'\nsha256 = '{}'\n", "é".repeat(32)), "64"),
        ] {
            let error = Keys::parse(&text).err().expect("an error").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
