//! Who this process is in the cluster, from the downward API.

/// The pod that this process runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name: `POD_NAME`.
    pub pod_name: String,
    /// Its namespace: `POD_NAMESPACE`.
    pub namespace: String,
    /// Its node: `NODE_NAME`.
    pub node_name: String,
    /// Its address: `POD_IP`.
    pub pod_ip: String,
    /// Its uid: `POD_UID`; none where the manifest doesn't set it.
    pub pod_uid: Option<String>,
}

/// The downward API is incomplete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {name} is not set: the pod's manifest must set it from the downward API")]
pub struct MissingVariable {
    /// The variable.
    pub name: &'static str,
}

impl Identity {
    /// Reads the environment.
    pub fn from_env() -> Result<Self, MissingVariable> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, MissingVariable> {
        let present = |name| variable(name).filter(|value| !value.is_empty());
        let required = |name| present(name).ok_or(MissingVariable { name });
        Ok(Self {
            pod_name: required("POD_NAME")?,
            namespace: required("POD_NAMESPACE")?,
            node_name: required("NODE_NAME")?,
            pod_ip: required("POD_IP")?,
            pod_uid: present("POD_UID"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_first_variable_that_is_missing() {
        let all_but =
            |missing: &'static str| move |name: &str| (name != missing).then(|| name.to_lowercase());
        assert_eq!(Identity::from_variables(all_but("POD_IP")), Err(MissingVariable { name: "POD_IP" }));
        let identity = Identity::from_variables(all_but("POD_UID")).unwrap();
        assert_eq!((identity.pod_name.as_str(), identity.pod_uid), ("pod_name", None));
    }
}
