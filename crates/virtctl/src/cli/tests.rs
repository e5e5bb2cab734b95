//! Command lines, and what they mean.

use super::*;

fn parsed(line: &str) -> Result<Invocation, clap::Error> {
    parse(line.split(' ').map(OsString::from))
}

#[test]
fn table() {
    let stop = |force, grace_period| {
        ClusterCommand::Stop(StopOptions { name: "a".into(), force, grace_period, dry_run: false })
    };
    let cases = [
        ("virtctl console a", ClusterCommand::Console { name: "a".into(), timeout: 5 }),
        ("virtctl console a --timeout 1", ClusterCommand::Console { name: "a".into(), timeout: 1 }),
        ("virtctl stop a", stop(false, None)),
        ("kubectl-virt stop a --force --grace-period 0", stop(true, Some(0))),
        (
            "virtctl pause vm a",
            ClusterCommand::Pause(PauseOptions { kind: MachineKind::Vm, name: "a".into(), dry_run: false }),
        ),
        (
            "virtctl migrate a --addedNodeSelector zone=b,rack=c",
            ClusterCommand::Migrate(MigrateOptions {
                name: "a".into(),
                added_node_selector: vec![("zone".into(), "b".into()), ("rack".into(), "c".into())],
                dry_run: false,
            }),
        ),
        (
            "virtctl port-forward vm/a/ns 8080:80 udp/53 --address ::1",
            ClusterCommand::PortForward(PortForwardOptions {
                target: "vm/a/ns".parse().unwrap(),
                ports: vec!["8080:80".parse().unwrap(), "udp/53".parse().unwrap()],
                address: "::1".into(),
                stdio: false,
            }),
        ),
        ("virtctl version -c", ClusterCommand::Version { client: true }),
        (
            "virtctl vnc screenshot a -f - -m",
            ClusterCommand::Vnc(VncOptions {
                command: Some(VncCommand::Screenshot(ScreenshotOptions {
                    name: "a".into(),
                    file: "-".into(),
                    move_cursor: true,
                })),
                screen: None,
            }),
        ),
        (
            "virtctl vnc a --port 5900",
            ClusterCommand::Vnc(VncOptions {
                command: None,
                screen: Some(ScreenOptions {
                    name: "a".into(),
                    proxy_only: false,
                    port: 5900,
                    address: "127.0.0.1".into(),
                    preserve_session: false,
                    vnc_type: None,
                    vnc_path: None,
                }),
            }),
        ),
        (
            "virtctl update watch --timeout 30m",
            ClusterCommand::Update {
                command: UpdateCommand::Watch(WatchOptions { timeout: Some(Duration::from_secs(1800)) }),
            },
        ),
        (
            "virtctl update plan --image-tag v0.18.0 -o json",
            ClusterCommand::Update {
                command: UpdateCommand::Plan(PlanOptions {
                    image_tag: Some("v0.18.0".into()),
                    output: Some(Output::Json),
                }),
            },
        ),
        (
            "virtctl update explain -o yaml",
            ClusterCommand::Update {
                command: UpdateCommand::Explain(ExplainOptions { output: Some(Output::Yaml) }),
            },
        ),
        (
            "virtctl update report",
            ClusterCommand::Update {
                command: UpdateCommand::Report(ReportOptions { name: None, index: 1, output: None }),
            },
        ),
        (
            "virtctl update report --index 2 -o json",
            ClusterCommand::Update {
                command: UpdateCommand::Report(ReportOptions {
                    name: None,
                    index: 2,
                    output: Some(Output::Json),
                }),
            },
        ),
        ("virtctl update retry", ClusterCommand::Update { command: UpdateCommand::Retry }),
    ];
    for (line, command) in cases {
        assert_eq!(parsed(line).unwrap().command, Command::Cluster(command), "{line}");
    }
    for line in [
        "virtctl",
        "virtctl console",
        "virtctl vnc",
        "virtctl vnc screenshot a",
        "virtctl vnc screenshot -f a.png",
        "virtctl vnc a screenshot -f a.png",
        "virtctl pause pod a",
        "virtctl migrate a --addedNodeSelector zone",
        "virtctl port-forward vmi/a",
        "virtctl port-forward a 80",
        "virtctl port-forward vmi/a http",
        "virtctl update watch --timeout 3",
        "virtctl update plan -o table",
        "virtctl update retry now",
        "virtctl update report --name a --index 2",
    ] {
        assert!(parsed(line).is_err(), "{line}");
    }
}

#[test]
fn every_shell_gets_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let line = format!("virtctl completion {shell}");
        let Command::Local(LocalCommand::Completion { shell }) = parsed(&line).unwrap().command else {
            panic!("{line}")
        };
        let script = completion(shell);
        for word in ["console", "kernel-boot-image", "unpause", "grace-period"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn cluster_flags_stand_anywhere() {
    let flags = parsed("virtctl start a -n ns --kubeconfig /k --context c").unwrap().flags;
    let expected = ClusterFlags {
        namespace: Some("ns".into()),
        kubeconfig: Some("/k".into()),
        context: Some("c".into()),
    };
    assert_eq!(flags, expected);
    assert_eq!(parsed("virtctl -n ns --kubeconfig /k --context c start a").unwrap().flags, expected);
}

#[test]
fn usage_has_the_name_it_was_called_by() {
    for (line, name) in [
        ("/usr/bin/virtctl console -h", "virtctl console"),
        ("/bin/kubectl-virt console -h", "kubectl virt console"),
    ] {
        let usage = parsed(line).unwrap_err().to_string();
        assert!(usage.contains(&format!("Usage: {name} [OPTIONS] <VMI>")), "{usage}");
    }
    Invocation::command().debug_assert();
}
