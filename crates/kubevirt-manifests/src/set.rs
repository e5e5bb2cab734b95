//! A release's objects as one value, and its compressed form in a ConfigMap.

use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use kubevirt_types::{ObjectKey, labels};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{InstallConfig, hash};

/// No manifest set is larger than this, unpacked: guards against a ConfigMap that is a bomb.
const MAX_UNPACKED: u64 = 16 << 20;

/// One object of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Which object.
    pub key: ObjectKey,
    /// The whole object as it is to be applied.
    pub body: Value,
}

impl Manifest {
    /// Takes an object as it is.
    ///
    /// # Panics
    /// When it has no apiVersion, kind or name, which is a mistake in this crate.
    pub fn plain(body: Value) -> Self {
        let key = ObjectKey::of(&body).expect("a manifest has apiVersion, kind and name");
        Self { key, body }
    }

    /// Takes an object and stamps on it who manages it, which release and registry it belongs to, and
    /// the hash of all that.
    ///
    /// # Panics
    /// When it has no apiVersion, kind or name, which is a mistake in this crate.
    pub fn managed(mut body: Value, config: &InstallConfig) -> Self {
        let metadata =
            body.get_mut("metadata").and_then(Value::as_object_mut).expect("a manifest has metadata");
        let stamp = |map: &mut Value, name: &str, value: &str| {
            if let Some(map) = map.as_object_mut() {
                map.insert(name.to_owned(), json!(value));
            }
        };
        let object_labels = metadata.entry("labels").or_insert_with(|| json!({}));
        stamp(object_labels, labels::MANAGED_BY, labels::MANAGED_BY_OPERATOR);
        stamp(object_labels, labels::APP_COMPONENT, "kubevirt");
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        stamp(annotations, labels::INSTALL_VERSION, &config.release.to_string());
        stamp(annotations, labels::INSTALL_REGISTRY, &config.registry);
        Self::plain(body).rehashed()
    }

    /// The same object with its hash annotation brought up to date. To be called after every change of the body.
    pub fn rehashed(mut self) -> Self {
        let without = {
            let mut body = self.body.clone();
            if let Some(annotations) =
                body.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
            {
                annotations.shift_remove(labels::MANIFEST_HASH);
            }
            body.to_string()
        };
        if let Some(metadata) = self.body.get_mut("metadata").and_then(Value::as_object_mut) {
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(labels::MANIFEST_HASH.to_owned(), json!(hash(&without)));
            }
        }
        self
    }

    /// The hash that is stamped on the body.
    pub fn hash(&self) -> Option<&str> {
        manifest_hash(&self.body)
    }
}

/// The manifest hash that an object carries, live or not.
pub fn manifest_hash(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(labels::MANIFEST_HASH)?.as_str()
}

/// Every object that virt-operator applies for one release, in a stable order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestSet {
    /// What it was made from.
    pub config: InstallConfig,
    /// The objects.
    pub manifests: Vec<Manifest>,
}

/// Why a stored manifest set can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It isn't base64.
    #[error("install strategy is not base64")]
    Base64(#[source] base64::DecodeError),
    /// It can't be unpacked, or is larger than 16 MiB.
    #[error("install strategy can't be unpacked, or is larger than 16 MiB")]
    Gzip(#[source] std::io::Error),
    /// It isn't a manifest set.
    #[error("install strategy is not a manifest set")]
    Json(#[source] serde_json::Error),
}

impl ManifestSet {
    /// The object with this key.
    pub fn get(&self, key: &ObjectKey) -> Option<&Manifest> {
        self.manifests.iter().find(|manifest| manifest.key == *key)
    }

    /// All objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Manifest> {
        self.manifests.iter().filter(move |manifest| manifest.key.kind == kind)
    }

    /// The form that is stored: JSON, gzip, base64.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("values serialize");
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&json).expect("writing to memory succeeds");
        STANDARD.encode(encoder.finish().expect("writing to memory succeeds"))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When the text is not what [`encode`](Self::encode) makes.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        let packed = STANDARD.decode(text.trim()).map_err(DecodeError::Base64)?;
        let mut json = Vec::new();
        GzDecoder::new(packed.as_slice())
            .take(MAX_UNPACKED)
            .read_to_end(&mut json)
            .map_err(DecodeError::Gzip)?;
        serde_json::from_slice(&json).map_err(DecodeError::Json)
    }
}
