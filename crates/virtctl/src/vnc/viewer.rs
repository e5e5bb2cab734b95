//! Which viewer there is, and how it is called.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::VncError;
use crate::cli::VncType;

/// Programs in the order in which they are looked for.
const PROGRAMS: &[(&str, VncType)] = &[
    ("remote-viewer", VncType::RemoteViewer),
    ("xtigervncviewer", VncType::Tiger),
    ("vncviewer", VncType::Tiger),
    ("/Applications/Chicken.app/Contents/MacOS/Chicken", VncType::Chicken),
];

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Viewer {
    pub(super) program: PathBuf,
    pub(super) kind: VncType,
}

/// Finds the viewer: the one that was named, or the first one of the wanted kind.
pub(super) fn find(
    kind: Option<VncType>,
    path: Option<&Path>,
    locate: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Viewer, VncError> {
    if let Some(path) = path {
        return Ok(Viewer { program: path.to_owned(), kind: kind.unwrap_or(kind_of(path)) });
    }
    let program_of = |wanted: VncType| match wanted {
        // RealVNC's program has the same name as TigerVNC's.
        VncType::Real => VncType::Tiger,
        VncType::RemoteViewer | VncType::Tiger | VncType::Chicken => wanted,
    };
    let candidates: Vec<_> =
        PROGRAMS.iter().filter(|(_, found)| kind.is_none_or(|kind| program_of(kind) == *found)).collect();
    let found = candidates.iter().find_map(|(program, found)| {
        locate(program).map(|program| Viewer { program, kind: kind.unwrap_or(*found) })
    });
    found.ok_or_else(|| VncError::NoViewer {
        looked_for: candidates.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", "),
    })
}

fn kind_of(path: &Path) -> VncType {
    match path.file_stem().and_then(|name| name.to_str()) {
        Some("remote-viewer" | "virt-viewer") => VncType::RemoteViewer,
        Some(_) | None => VncType::Tiger,
    }
}

/// The program's full path, where it is in `PATH` or is one.
pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    let directories = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&directories).map(|dir| dir.join(program)).find(|path| path.is_file())
}

impl Viewer {
    /// Arguments that make it connect to `address`.
    pub(super) fn arguments(&self, address: SocketAddr) -> Vec<String> {
        let (ip, port) = (address.ip(), address.port());
        match self.kind {
            VncType::RemoteViewer => vec![format!("vnc://{address}")],
            // Two colons: a port, not a display.
            VncType::Tiger => vec![format!("{ip}::{port}")],
            VncType::Real => vec!["-WarnUnencrypted=0".into(), "-Shared=0".into(), format!("{ip}::{port}")],
            VncType::Chicken => vec![format!("{ip}:{port}")],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_there_is_wins_unless_one_is_wanted() {
        let installed = |programs: &'static [&'static str]| {
            move |program: &str| programs.contains(&program).then(|| PathBuf::from("/bin").join(program))
        };
        let address = "127.0.0.1:5901".parse().unwrap();
        let call =
            |viewer: Viewer| (viewer.program.display().to_string(), viewer.arguments(address).join(" "));
        let both = installed(&["vncviewer", "remote-viewer"]);
        let cases = [
            (None, "/bin/remote-viewer", "vnc://127.0.0.1:5901"),
            (Some(VncType::Tiger), "/bin/vncviewer", "127.0.0.1::5901"),
            (Some(VncType::Real), "/bin/vncviewer", "-WarnUnencrypted=0 -Shared=0 127.0.0.1::5901"),
        ];
        for (kind, program, arguments) in cases {
            assert_eq!(call(find(kind, None, both).unwrap()), (program.into(), arguments.into()), "{kind:?}");
        }
        let named = find(None, Some(Path::new("/opt/remote-viewer")), installed(&[])).unwrap();
        assert_eq!(named.kind, VncType::RemoteViewer);
        let error = find(Some(VncType::RemoteViewer), None, installed(&[])).unwrap_err().to_string();
        assert!(error.contains("looked for remote-viewer)"), "{error}");
    }
}
