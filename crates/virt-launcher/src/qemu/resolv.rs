//! Where the pod looks for names: what DHCP tells the guest, so that it finds the services a pod finds.

use std::path::Path;

/// The kubelet's file.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The domains in which names are looked for. None where the file can't be read: the guest then needs full names.
pub fn search_domains(file: &Path) -> Vec<String> {
    parse(&std::fs::read_to_string(file).unwrap_or_default())
}

/// The last `search` counts. What isn't a domain could break out of QEMU's option, and is left out.
fn parse(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let last = text.lines().map(words).rfind(|words| words.first().is_some_and(|first| first == "search"));
    last.into_iter().flatten().skip(1).filter(|domain| is_domain(domain)).collect()
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_search_counts_and_only_domains_do() {
        for (text, want) in [
            ("", vec![]),
            (
                "nameserver 10.96.0.10\nsearch a.svc.cluster.local svc.cluster.local\noptions ndots:5\n",
                vec!["a.svc.cluster.local", "svc.cluster.local"],
            ),
            ("search a\nsearch\tb  c\n", vec!["b", "c"]),
            ("search a,hostfwd=tcp::1-:1 b..c . fine\n", vec!["fine"]),
            ("searching a\n", vec![]),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        assert!(search_domains(Path::new("/no/such/file")).is_empty());
    }
}
