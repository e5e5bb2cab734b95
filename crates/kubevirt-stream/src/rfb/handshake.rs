//! The handshake, both parts of it: a server's towards the viewer, a viewer's towards each server.
//!
//! They know nothing of each other. So a viewer that is still greeting when its server is lost doesn't notice
//! either. No security but none: it is QEMU's behind a launcher, and who may come here was asked before.

use super::format::PixelFormat;
use super::{u16_at, u32_at};

const VERSION: &[u8; 12] = b"RFB 003.008\n";
const NONE: u8 = 1;
/// Longest piece: a screen's name, or why there is none.
const LONGEST: usize = 4096;

/// The versions that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V3,
    V7,
    V8,
}

impl Version {
    /// 3.4 to 3.6 were never made and mean 3.3; what is newer than 3.8 speaks it.
    fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let minor: u16 = text.strip_prefix("RFB 003.")?.strip_suffix('\n')?.parse().ok()?;
        match minor {
            0..3 => None,
            3..7 => Some(Self::V3),
            7 => Some(Self::V7),
            8.. => Some(Self::V8),
        }
    }

    fn line(self) -> &'static [u8; 12] {
        match self {
            Self::V3 => b"RFB 003.003\n",
            Self::V7 => b"RFB 003.007\n",
            Self::V8 => VERSION,
        }
    }
}

/// What a server says of its screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerInit {
    pub(super) size: (u16, u16),
    pub(super) format: PixelFormat,
    name: Vec<u8>,
}

impl ServerInit {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::from(self.size.0.to_be_bytes());
        bytes.extend(self.size.1.to_be_bytes());
        bytes.extend(self.format.0);
        bytes.extend((self.name.len() as u32).to_be_bytes());
        bytes.extend(&self.name);
        bytes
    }
}

/// The server's part.
#[derive(Debug)]
pub(super) enum Greeting {
    Version,
    Security(Version),
    Init,
    Done,
}

impl Greeting {
    /// With what it says first.
    pub(super) fn begin() -> (Self, Vec<u8>) {
        (Self::Version, VERSION.to_vec())
    }

    /// Takes what it needs from the front of what the viewer has said, and answers. An error is what the viewer did wrong.
    pub(super) fn take(&mut self, said: &mut Vec<u8>, answer: &mut Vec<u8>) -> Result<(), String> {
        loop {
            let length = match self {
                Self::Version => 12,
                Self::Security(_) | Self::Init => 1,
                Self::Done => return Ok(()),
            };
            if said.len() < length {
                return Ok(());
            }
            let piece: Vec<u8> = said.drain(..length).collect();
            *self = match self {
                Self::Version => match Version::parse(&piece) {
                    Some(Version::V3) => {
                        answer.extend(u32::from(NONE).to_be_bytes());
                        Self::Init
                    }
                    Some(version) => {
                        answer.extend([1, NONE]);
                        Self::Security(version)
                    }
                    None => return Err(format!("not RFB: {:?}", String::from_utf8_lossy(&piece))),
                },
                Self::Security(_) if piece != [NONE] => {
                    return Err(format!("security type {} was not offered", piece[0]));
                }
                Self::Security(version) => {
                    if *version == Version::V8 {
                        answer.extend(0u32.to_be_bytes());
                    }
                    Self::Init
                }
                // Whether others may watch is the launcher's to say.
                Self::Init | Self::Done => Self::Done,
            };
        }
    }
}

/// The viewer's part.
#[derive(Debug)]
pub(super) enum Joining {
    Version,
    /// How many types, and which.
    Security(Version),
    /// One type, chosen by the server.
    SecurityOf33,
    Result,
    Init,
}

impl Joining {
    /// Takes what it needs from the front of what the server has said, and answers. The server's last word is about its screen;
    /// what is then left is messages. An error is why there is no screen.
    pub(super) fn take(
        &mut self,
        said: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Result<Option<ServerInit>, String> {
        loop {
            let Some(length) = self.length(said) else { return Ok(None) };
            if length > LONGEST {
                return Err(format!("it has a name or an excuse of {length} bytes"));
            }
            if said.len() < length {
                return Ok(None);
            }
            let piece: Vec<u8> = said.drain(..length).collect();
            *self = match self {
                Self::Version => {
                    let version = Version::parse(&piece);
                    let version = version.ok_or_else(|| {
                        format!("it doesn't speak RFB: {:?}", String::from_utf8_lossy(&piece))
                    })?;
                    answer.extend(version.line());
                    match version {
                        Version::V3 => Self::SecurityOf33,
                        Version::V7 | Version::V8 => Self::Security(version),
                    }
                }
                Self::Security(_) if piece[0] == 0 => return Err(refusal(&piece[1..])),
                Self::SecurityOf33 if u32_at(&piece, 0) == 0 => return Err(refusal(&piece[4..])),
                Self::Security(version) => {
                    if !piece[1..].contains(&NONE) {
                        return Err(format!("it wants authentication (types {:?})", &piece[1..]));
                    }
                    answer.push(NONE);
                    match version {
                        Version::V8 => Self::Result,
                        Version::V3 | Version::V7 => welcome(answer),
                    }
                }
                Self::SecurityOf33 if u32_at(&piece, 0) != u32::from(NONE) => {
                    return Err(format!("it wants authentication (type {})", u32_at(&piece, 0)));
                }
                Self::SecurityOf33 => welcome(answer),
                Self::Result if u32_at(&piece, 0) != 0 => return Err(refusal(&piece[4..])),
                Self::Result => welcome(answer),
                Self::Init => {
                    let size = (u16_at(&piece, 0), u16_at(&piece, 2));
                    let format = PixelFormat::at(&piece[4..]);
                    return Ok(Some(ServerInit { size, format, name: piece[24..].to_vec() }));
                }
            };
        }
    }

    /// How long the next piece is; none while that isn't known.
    fn length(&self, said: &[u8]) -> Option<usize> {
        let text = |at: usize| (said.len() >= at + 4).then(|| at + 4 + u32_at(said, at) as usize);
        match self {
            Self::Version => Some(12),
            Self::Security(_) => match said.first()? {
                0 => text(1),
                count => Some(1 + usize::from(*count)),
            },
            Self::SecurityOf33 | Self::Result if said.len() < 4 => None,
            Self::SecurityOf33 if u32_at(said, 0) == 0 => text(4),
            Self::Result if u32_at(said, 0) != 0 => text(4),
            Self::SecurityOf33 | Self::Result => Some(4),
            Self::Init => text(20),
        }
    }
}

/// Others may watch: a picture of the screen is taken beside us.
fn welcome(answer: &mut Vec<u8>) -> Joining {
    answer.push(1);
    Joining::Init
}

fn refusal(text: &[u8]) -> String {
    let words = text.get(4..).unwrap_or_default();
    format!("it refuses the session: {}", String::from_utf8_lossy(words))
}
