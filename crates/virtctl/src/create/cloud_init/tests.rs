//! What cloud-init reads, read back; and what is refused without being repeated.

use serde_json::json;

use super::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== me@home";

fn options() -> CloudInitOptions {
    CloudInitOptions::default()
}

fn user_data(options: &CloudInitOptions, password: Option<&str>) -> String {
    source(options, password).unwrap().unwrap().user_data.unwrap()
}

/// As cloud-init takes it: with a first line that says what it is.
fn read(user_data: &str) -> Value {
    assert!(user_data.starts_with("#cloud-config\n"), "{user_data}");
    serde_saphyr::from_str(user_data).unwrap()
}

#[test]
fn every_text_is_the_same_text_for_the_guest() {
    for text in
        ["debian", "yes", "012", "1:30", "a: b #c", "\"'\\/", "- x", "{x}", "ü ✓", "$6$salt$hash.", " "]
    {
        let options = CloudInitOptions {
            user: Some(text.into()),
            ssh_keys: vec![format!("{KEY} {text}.").replace(['"', ','], "")],
            ..options()
        };
        let expected = json!({
            "user": text,
            "password": text,
            "chpasswd": {"expire": false},
            "ssh_authorized_keys": [options.ssh_keys[0]],
        });
        assert_eq!(read(&user_data(&options, Some(text))), expected, "{text}");
    }
}

#[test]
fn nothing_is_told_that_nobody_asked_for() {
    let asked = |source| CloudInitOptions { source: Some(source), user: Some("me".into()), ..options() };
    assert_eq!(source(&options(), None).unwrap(), None);
    assert_eq!(source(&asked(DataSource::None), Some("secret")).unwrap(), None);
    assert_eq!(read(&user_data(&asked(DataSource::NoCloud), None)), json!({"user": "me"}));
    let bare = CloudInitOptions { source: Some(DataSource::NoCloud), ..options() };
    assert_eq!(user_data(&bare, None), "#cloud-config\n");
    // Admission wants user data where there is network data.
    let network = source(&CloudInitOptions { network_data: Some("e30=".into()), ..options() }, None).unwrap();
    let expected = CloudInitNoCloudSource {
        user_data: Some("#cloud-config\n".into()),
        network_data_base64: Some("e30=".into()),
        ..CloudInitNoCloudSource::default()
    };
    assert_eq!(network, Some(expected));
}

#[test]
fn a_flag_may_hold_several_keys() {
    let limited = format!("from=\"10.0.0.1,10.0.0.2\" {KEY}");
    let options = CloudInitOptions {
        ssh_keys: vec![format!("{limited}, ssh-rsa AAAA"), "ecdsa-sha2-nistp256 BBBB".into()],
        ..options()
    };
    let expected = json!({"ssh_authorized_keys": [limited, "ssh-rsa AAAA", "ecdsa-sha2-nistp256 BBBB"]});
    assert_eq!(read(&user_data(&options, None)), expected);
}

#[test]
fn base64_is_passed_on_without_its_line_breaks() {
    let options = CloudInitOptions {
        user_data: Some("I2Nsb3Vk\nLWNvbmZpZwo=\n".into()),
        network_data: Some("e30=".into()),
        ..options()
    };
    let expected = CloudInitNoCloudSource {
        user_data_base64: Some("I2Nsb3VkLWNvbmZpZwo=".into()),
        network_data_base64: Some("e30=".into()),
        ..CloudInitNoCloudSource::default()
    };
    assert_eq!(source(&options, None).unwrap(), Some(expected));
}

#[test]
fn what_cannot_be_told_is_refused_and_not_repeated() {
    let secret = "hunter2";
    let keys = |key: String| CloudInitOptions { ssh_keys: vec![key], ..options() };
    let base64_of = |bytes: usize| Some(STANDARD.encode(&secret.repeat(bytes).as_bytes()[..bytes]));
    let table = [
        (
            CloudInitOptions { user_data: Some(format!("%{secret}")), ..options() },
            None,
            "--cloud-init-user-data is not base64",
        ),
        (
            CloudInitOptions { network_data: Some(format!("%{secret}")), ..options() },
            None,
            "--cloud-init-network-data is not base64",
        ),
        (
            CloudInitOptions { user_data: base64_of(CLOUD_INIT_INLINE_LIMIT + 1), ..options() },
            None,
            "the user data has 2049 bytes, and at most 2048 can stand in a virtual machine: put it into a Secret and \
             name that in the manifest, as cloudInitNoCloud.secretRef",
        ),
        (
            CloudInitOptions { network_data: base64_of(CLOUD_INIT_INLINE_LIMIT + 1), ..options() },
            None,
            "as cloudInitNoCloud.networkDataSecretRef",
        ),
        (keys(format!("ssh-rsa {}", "A".repeat(CLOUD_INIT_INLINE_LIMIT))), None, "the user data has 2"),
        (keys(format!("-----BEGIN KEY-----\n{secret}")), None, "--ssh-key must be one line"),
        (
            keys(format!("/home/{secret}.pub")),
            None,
            "--ssh-key is not a public key: give what is in the .pub",
        ),
        (keys(format!("{KEY},,{KEY}")), None, "--ssh-key is not a public key"),
        (options(), Some(format!("{secret}\nroot: yes")), "--password-file must be one line"),
        (options(), Some(format!("{secret}\u{2028}x")), "--password-file must be one line"),
    ];
    for (options, password, expected) in table {
        let asked = CloudInitOptions { source: Some(DataSource::NoCloud), ..options };
        let refused = source(&asked, password.as_deref()).unwrap_err().to_string();
        assert!(refused.contains(expected) && !refused.contains(secret), "{refused}");
    }
    assert!(
        source(&CloudInitOptions { user_data: base64_of(CLOUD_INIT_INLINE_LIMIT), ..options() }, None)
            .is_ok()
    );
}
