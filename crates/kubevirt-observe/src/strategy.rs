//! Stored install strategies: a release's manifest set in a ConfigMap, read. Pure but for a memory of what was unpacked.

use kubevirt_manifests::ManifestSet;
use kubevirt_rollout::observed::StoredStrategy;
use kubevirt_types::labels;
use serde_json::Value;

use crate::handle::handle;
use crate::kinds::CONFIG_MAP;

/// The key of the manifest set in the ConfigMap's data.
pub const DATA_KEY: &str = "manifests";
/// How the manifest set is written there.
pub const ENCODING: &str = "gzip+base64";

/// Why an install strategy couldn't be read.
#[derive(Debug, thiserror::Error)]
pub enum StrategyReadError {
    /// The ConfigMap has no manifest set.
    #[error("ConfigMap {name} has no data {DATA_KEY:?}")]
    Empty {
        #[allow(missing_docs)]
        name: String,
    },
    /// The ConfigMap's encoding isn't ours.
    #[error("ConfigMap {name} is encoded as {encoding:?}, not as {ENCODING}")]
    Encoding {
        #[allow(missing_docs)]
        name: String,
        #[allow(missing_docs)]
        encoding: String,
    },
    /// The ConfigMap's data isn't a manifest set.
    #[error("ConfigMap {name} holds no readable manifest set")]
    Decode {
        #[allow(missing_docs)]
        name: String,
        #[source]
        #[allow(missing_docs)]
        source: kubevirt_manifests::DecodeError,
    },
}

/// Reads the manifest set out of a ConfigMap.
pub fn read(config_map: &Value) -> Result<ManifestSet, StrategyReadError> {
    let text = |pointer: &str| config_map.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name").unwrap_or_default();
    let annotations = &config_map["metadata"]["annotations"];
    let encoding = annotations[labels::INSTALL_ENCODING].as_str().unwrap_or_default();
    if encoding != ENCODING {
        return Err(StrategyReadError::Encoding { name, encoding: encoding.to_owned() });
    }
    let Some(data) = config_map["data"][DATA_KEY].as_str() else {
        return Err(StrategyReadError::Empty { name });
    };
    ManifestSet::decode(data).map_err(|source| StrategyReadError::Decode { name, source })
}

/// The stored manifest sets. Unpacking one takes longer than all the rest of an observation, so it is done once.
#[derive(Debug, Default)]
pub struct Strategies {
    decoded: Vec<StoredStrategy>,
}

impl Strategies {
    /// The strategies among the ConfigMaps that there are now.
    pub fn read(&mut self, config_maps: &[Value]) -> &[StoredStrategy] {
        let stored: Vec<_> = config_maps
            .iter()
            .filter(|map| is_strategy(map))
            .filter_map(|map| Some((handle(map)?, map)))
            .collect();
        self.decoded.retain(|known| stored.iter().any(|(handle, _)| *handle == known.handle));
        for (handle, map) in stored {
            if self.decoded.iter().any(|known| known.handle == handle) {
                continue;
            }
            match read(map) {
                Ok(set) => self.decoded.push(StoredStrategy { handle, set: set.into() }),
                // no strategy, so it stays among the other objects, where it is an orphan
                Err(error) => tracing::warn!(%error, "an install strategy can't be read"),
            }
        }
        &self.decoded
    }

    /// Whether an object is one of the strategies that were read.
    pub fn holds(&self, object: &Value) -> bool {
        is_strategy(object)
            && handle(object).is_some_and(|of| self.decoded.iter().any(|known| known.handle == of))
    }
}

fn is_strategy(object: &Value) -> bool {
    object["kind"] == CONFIG_MAP && object["metadata"]["labels"].get(labels::INSTALL_STRATEGY).is_some()
}
