//! What every kind of ours has in common: group, served versions, names, and its wire form.

/// The API group of all our kinds.
pub const GROUP: &str = "kubevirt.io";
/// The served versions; the first is the stored one.
pub const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];
/// Group and stored version.
pub const API_VERSION: &str = "kubevirt.io/v1";

/// Defines a kind `{ metadata, spec, status }` of group `kubevirt.io/v1`, namespaced.
///
/// Implements the traits of `k8s-openapi`, through which `kube::Api` works with it, and a
/// wire form that carries `apiVersion` and `kind`.
macro_rules! kind {
    ($(#[$doc:meta])* $kind:ident, $plural:literal, $spec:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
        pub struct $kind {
            /// Standard object metadata.
            #[serde(default)]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What is wanted.
            #[serde(default)]
            pub spec: $spec,
            /// What is.
            #[serde(default)]
            pub status: Option<$status>,
        }

        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                let fields = 4 + usize::from(self.status.is_some());
                let mut object = serializer.serialize_struct(stringify!($kind), fields)?;
                object.serialize_field("apiVersion", $crate::kind::API_VERSION)?;
                object.serialize_field("kind", stringify!($kind))?;
                object.serialize_field("metadata", &self.metadata)?;
                object.serialize_field("spec", &self.spec)?;
                if let Some(status) = &self.status {
                    object.serialize_field("status", status)?;
                }
                object.end()
            }
        }

        impl k8s_openapi::Resource for $kind {
            const API_VERSION: &'static str = $crate::kind::API_VERSION;
            const GROUP: &'static str = $crate::kind::GROUP;
            const KIND: &'static str = stringify!($kind);
            const VERSION: &'static str = $crate::kind::VERSIONS[0];
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::NamespaceResourceScope;
        }

        impl k8s_openapi::Metadata for $kind {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }

        impl $kind {
            /// The name; empty for an object that was never stored.
            pub fn name(&self) -> &str {
                self.metadata.name.as_deref().unwrap_or_default()
            }
            /// The namespace; empty for an object that was never stored.
            pub fn namespace(&self) -> &str {
                self.metadata.namespace.as_deref().unwrap_or_default()
            }
            /// The uid; empty for an object that was never stored.
            pub fn uid(&self) -> &str {
                self.metadata.uid.as_deref().unwrap_or_default()
            }
            /// Whether somebody has asked for its deletion.
            pub fn is_deleting(&self) -> bool {
                self.metadata.deletion_timestamp.is_some()
            }
        }
    };
}
pub(crate) use kind;
