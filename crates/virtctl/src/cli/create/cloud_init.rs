//! What the guest's cloud-init is told. What is wrong with it is said by the one who makes the manifest: clap would
//! repeat the value, and that may be a secret.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

/// Where cloud-init reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataSource {
    /// A disk with what it is told
    #[value(name = "nocloud")]
    NoCloud,
    /// Nothing
    None,
}

/// Options of `create vm` for cloud-init.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct CloudInitOptions {
    /// Where the guest's cloud-init reads from; nocloud if any other of these flags is given
    #[arg(long = "cloud-init", value_name = "SOURCE", ignore_case = true)]
    pub source: Option<DataSource>,
    /// User of the guest; the image's own by default
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// File with the user's password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Public key with which the user may log in; can be given more than once
    #[arg(long = "ssh-key", value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub ssh_keys: Vec<String>,
    /// User data in base64, instead of a user, a password and keys; at most 2048 bytes of it
    #[arg(long = "cloud-init-user-data", value_name = "BASE64",
        conflicts_with_all = ["user", "password_file", "ssh_keys"], value_parser = NonEmptyStringValueParser::new())]
    pub user_data: Option<String>,
    /// Network data in base64; at most 2048 bytes of it
    #[arg(long = "cloud-init-network-data", value_name = "BASE64", value_parser = NonEmptyStringValueParser::new())]
    pub network_data: Option<String>,
}

impl CloudInitOptions {
    /// Whether there is something to tell.
    pub fn says_something(&self) -> bool {
        let Self { source: _, user, password_file, ssh_keys, user_data, network_data } = self;
        user.is_some()
            || password_file.is_some()
            || !ssh_keys.is_empty()
            || user_data.is_some()
            || network_data.is_some()
    }
}
