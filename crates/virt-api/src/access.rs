//! Who may ask what: the front proxy's word for who asks, and the question for the API server
//! whether they may.
//!
//! Pure. Asking is `serve::authorize`'s.

mod attributes;
mod front_proxy;

pub use attributes::{Attributes, is_open};
pub use front_proxy::{FrontProxy, FrontProxyError, Identity};
