//! What cloud-init is told, as it stands in the manifest. Pure. It may hold secrets: no error repeats it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubevirt_types::vmi::{CLOUD_INIT_INLINE_LIMIT, CloudInitNoCloudSource};
use serde_json::Value;

use crate::cli::create::{CloudInitOptions, DataSource};

/// The guest can't be told this.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloudInitError {
    #[error("--{flag} is not base64")]
    NotBase64 { flag: &'static str },
    #[error("--{flag} must be one line without control characters")]
    NotOneLine { flag: &'static str },
    #[error("--ssh-key is not a public key: give what is in the .pub file, such as \"ssh-ed25519 AAAA...\"")]
    NotAKey,
    #[error(
        "the {what} has {bytes} bytes, and at most {CLOUD_INIT_INLINE_LIMIT} can stand in a virtual machine: put it into \
         a Secret and name that in the manifest, as cloudInitNoCloud.{instead}"
    )]
    TooLong { what: &'static str, bytes: usize, instead: &'static str },
}

/// What the guest is told; nothing if nobody asked for it.
pub(super) fn source(
    options: &CloudInitOptions,
    password: Option<&str>,
) -> Result<Option<CloudInitNoCloudSource>, CloudInitError> {
    match options.source {
        Some(DataSource::None) => return Ok(None),
        None if !options.says_something() => return Ok(None),
        Some(DataSource::NoCloud) | None => {}
    }
    let user_data_base64 = match &options.user_data {
        Some(text) => Some(base64(text, "cloud-init-user-data", ("user data", "secretRef"))?),
        None => None,
    };
    let user_data = match user_data_base64 {
        Some(_) => None,
        None => Some(cloud_config(options, password)?),
    };
    let network_data_base64 = match &options.network_data {
        Some(text) => {
            Some(base64(text, "cloud-init-network-data", ("network data", "networkDataSecretRef"))?)
        }
        None => None,
    };
    Ok(Some(CloudInitNoCloudSource {
        user_data,
        user_data_base64,
        network_data_base64,
        ..CloudInitNoCloudSource::default()
    }))
}

/// Base64 without the line breaks that programs put into it.
fn base64(
    text: &str,
    flag: &'static str,
    (what, instead): (&'static str, &'static str),
) -> Result<String, CloudInitError> {
    let text: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(&text).map_err(|_| CloudInitError::NotBase64 { flag })?.len();
    if bytes > CLOUD_INIT_INLINE_LIMIT {
        return Err(CloudInitError::TooLong { what, bytes, instead });
    }
    Ok(text)
}

/// User data that makes a user. Every text is quoted: what YAML would take for a number or a truth stays a text.
fn cloud_config(options: &CloudInitOptions, password: Option<&str>) -> Result<String, CloudInitError> {
    let mut config = "#cloud-config\n".to_owned();
    if let Some(user) = &options.user {
        config += &format!("user: {}\n", quoted(user, "user")?);
    }
    if let Some(password) = password {
        config += &format!("password: {}\n", quoted(password, "password-file")?);
        config += "chpasswd: {expire: false}\n";
    }
    let keys: Vec<&str> = options.ssh_keys.iter().flat_map(|keys| split_keys(keys)).collect();
    if !keys.is_empty() {
        config += "ssh_authorized_keys:\n";
    }
    for key in keys {
        let text = quoted(key, "ssh-key")?;
        if !is_public_key(key) {
            return Err(CloudInitError::NotAKey);
        }
        config += &format!("  - {text}\n");
    }
    if config.len() > CLOUD_INIT_INLINE_LIMIT {
        let (what, instead) = ("user data", "secretRef");
        return Err(CloudInitError::TooLong { what, bytes: config.len(), instead });
    }
    Ok(config)
}

/// A text of JSON is one of YAML, if no line ends in it.
fn quoted(text: &str, flag: &'static str) -> Result<String, CloudInitError> {
    // YAML ends lines at the last two as well.
    if text.contains(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}') {
        return Err(CloudInitError::NotOneLine { flag });
    }
    Ok(Value::from(text).to_string())
}

/// One flag may hold several keys, with commas between them; those in quotes belong to a key's options.
fn split_keys(text: &str) -> impl Iterator<Item = &str> {
    let mut in_quotes = false;
    let keys = text.split(move |c: char| {
        in_quotes ^= c == '"';
        c == ',' && !in_quotes
    });
    keys.map(str::trim)
}

/// Whether there is a type with a key behind it; options may stand before, a comment after.
fn is_public_key(text: &str) -> bool {
    let is_type = |word: &str| ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start));
    let is_base64 = |word: &str| word.bytes().all(|c| c.is_ascii_alphanumeric() || b"+/=".contains(&c));
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).any(|pair| is_type(pair[0]) && is_base64(pair[1]))
}

#[cfg(test)]
mod tests;
