//! The front proxy: the aggregator of the API server, which alone may say who asks.
//!
//! How to know it, and in which headers it says so, stands in the ConfigMap
//! `kube-system/extension-apiserver-authentication`.

use std::collections::BTreeMap;

use http::HeaderMap;

use crate::refusal::Refusal;

/// How to know the front proxy, and where it says who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrontProxy {
    /// CAs of its certificate, PEM.
    pub ca_pem: String,
    /// Its common names; none means that the CA is enough.
    pub allowed_names: Vec<String>,
    user_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The ConfigMap can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontProxyError {
    /// A key that must be there isn't.
    #[error("ConfigMap kube-system/extension-apiserver-authentication has no {key}")]
    Missing {
        #[allow(missing_docs)]
        key: &'static str,
    },
    /// A key doesn't hold a JSON list of texts.
    #[error("{key} in ConfigMap kube-system/extension-apiserver-authentication is no JSON list of texts")]
    NoList {
        #[allow(missing_docs)]
        key: &'static str,
    },
}

const CA: &str = "requestheader-client-ca-file";
const ALLOWED_NAMES: &str = "requestheader-allowed-names";
const USER_HEADERS: &str = "requestheader-username-headers";
const GROUP_HEADERS: &str = "requestheader-group-headers";
const EXTRA_PREFIXES: &str = "requestheader-extra-headers-prefix";

impl FrontProxy {
    /// Reads the ConfigMap's data. A missing list of names is an error, as it would let in anybody
    /// whom the CA knows; an empty one says that this is meant.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, FrontProxyError> {
        let ca_pem = data.get(CA).filter(|pem| !pem.trim().is_empty());
        let lower = |headers: Vec<String>| headers.iter().map(|h| h.to_ascii_lowercase()).collect();
        Ok(Self {
            ca_pem: ca_pem.ok_or(FrontProxyError::Missing { key: CA })?.clone(),
            allowed_names: list(data, ALLOWED_NAMES)?
                .ok_or(FrontProxyError::Missing { key: ALLOWED_NAMES })?,
            user_headers: lower(list(data, USER_HEADERS)?.unwrap_or_else(|| vec!["X-Remote-User".into()])),
            group_headers: lower(list(data, GROUP_HEADERS)?.unwrap_or_else(|| vec!["X-Remote-Group".into()])),
            extra_prefixes: lower(
                list(data, EXTRA_PREFIXES)?.unwrap_or_else(|| vec!["X-Remote-Extra-".into()]),
            ),
        })
    }

    /// Whether a verified certificate of this name is the front proxy's. The handshake has checked
    /// it too; a connection that is older than the list hasn't.
    pub fn is(&self, common_name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|name| name == common_name)
    }

    /// Who asks, in the front proxy's words.
    pub fn identity(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let values = |name: &String| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let first = |names: &[String]| names.iter().map(values).find(|values| !values.is_empty());
        let missing = |what: &str| {
            Refusal::unauthorized(format!("a valid {what} header is required for authorization"))
        };
        let user = first(&self.user_headers).and_then(|values| values.into_iter().next());
        let user = user.filter(|user| !user.is_empty()).ok_or_else(|| missing("user"))?;
        let groups = first(&self.group_headers).ok_or_else(|| missing("group"))?;
        Ok(Identity { user, groups, extra: self.extra(headers) })
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let key = self.extra_prefixes.iter().find_map(|prefix| name.as_str().strip_prefix(prefix));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                extra.entry(percent_decoded(key)).or_default().push(value.to_owned());
            }
        }
        extra
    }
}

fn list(data: &BTreeMap<String, String>, key: &'static str) -> Result<Option<Vec<String>>, FrontProxyError> {
    data.get(key)
        .map(|text| serde_json::from_str(text).map_err(|_| FrontProxyError::NoList { key }))
        .transpose()
}

/// `%2f` and so on decoded; what is no valid escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn as_kubeadm_makes_it() -> FrontProxy {
        FrontProxy::parse(&data(&[
            (CA, "PEM"),
            (ALLOWED_NAMES, r#"["front-proxy-client"]"#),
            (USER_HEADERS, r#"["X-Remote-User"]"#),
            (GROUP_HEADERS, r#"["X-Remote-Group"]"#),
            (EXTRA_PREFIXES, r#"["X-Remote-Extra-"]"#),
        ]))
        .unwrap()
    }

    #[test]
    fn who_asks_is_what_the_headers_say() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "jane"),
            ("x-remote-group", "a"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-example.com%2fscopes", "read"),
            ("x-remote-extra-example.com%2fscopes", "write"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let identity = as_kubeadm_makes_it().identity(&headers).unwrap();
        assert_eq!((identity.user.as_str(), identity.groups.len()), ("jane", 2));
        assert_eq!(identity.extra["example.com/scopes"], ["read", "write"]);
        headers.remove("x-remote-group");
        let refusal = as_kubeadm_makes_it().identity(&headers).unwrap_err();
        assert_eq!(refusal.message, "a valid group header is required for authorization");
        assert_eq!(refusal.code, 401);
    }

    #[test]
    fn names_are_a_closed_list_unless_it_is_empty() {
        let proxy = as_kubeadm_makes_it();
        assert!(proxy.is("front-proxy-client") && !proxy.is("jane"));
        let any = FrontProxy::parse(&data(&[(CA, "PEM"), (ALLOWED_NAMES, "[]")])).unwrap();
        assert!(any.is("jane"));
    }

    #[test]
    fn an_incomplete_config_map_is_refused() {
        for (pairs, expected) in [
            (vec![(ALLOWED_NAMES, "[]")], FrontProxyError::Missing { key: CA }),
            (vec![(CA, "PEM")], FrontProxyError::Missing { key: ALLOWED_NAMES }),
            (vec![(CA, "PEM"), (ALLOWED_NAMES, "x")], FrontProxyError::NoList { key: ALLOWED_NAMES }),
        ] {
            assert_eq!(FrontProxy::parse(&data(&pairs)).unwrap_err(), expected);
        }
    }

    #[test]
    fn escapes() {
        for (text, decoded) in [("a%2Fb", "a/b"), ("a%", "a%"), ("a%zz", "a%zz"), ("%e2%82%ac", "€")] {
            assert_eq!(percent_decoded(text), decoded);
        }
    }
}
