//! One full picture over RFB 3.8, the protocol of VNC: raw pixels, no authentication, a shared session.
//!
//! Reads from a QEMU that its guest may have taken over: sizes are bounded, and what doesn't fit is an error. How long
//! it may take is the caller's.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version that QEMU speaks.
const VERSION: [u8; 12] = *b"RFB 003.008\n";
/// A security type: none.
const NONE: u8 = 1;
/// An encoding: pixels as they are.
const RAW: i32 = 0;
/// A rectangle of this encoding says that the screen has another size now.
const DESKTOP_SIZE: i32 = -223;
/// 32 bits per pixel, 24 of them true colour, in the order red, green, blue, nothing.
const PIXEL_FORMAT: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0];
/// Four times what the guest's video memory can show.
const MAX_PIXELS: usize = 16 << 20;
/// Longest text that is read: a name, or why not.
const MAX_TEXT: u32 = 4096;

/// QEMU doesn't send a picture.
#[derive(Debug, thiserror::Error)]
pub enum RfbError {
    /// The connection broke.
    #[error("the screen's connection broke: somebody may have asked for the screen for himself alone")]
    Io(#[from] std::io::Error),
    /// It speaks another protocol.
    #[error("the screen doesn't speak RFB 3.8: {0:?}")]
    Version(String),
    /// It wants more than we have.
    #[error("the screen wants authentication (types {0:?})")]
    Security(Vec<u8>),
    /// It says no.
    #[error("the screen refuses the session: {0}")]
    Refused(String),
    /// It sends what was never asked for, or makes no sense.
    #[error("the screen sends nonsense: {0}")]
    Nonsense(String),
}

/// A picture: three bytes for each pixel, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: u16,
    height: u16,
    rgb: Vec<u8>,
    /// Which pixels have come, and how many haven't.
    painted: Vec<bool>,
    missing: usize,
}

impl Picture {
    fn new(width: u16, height: u16) -> Result<Self, RfbError> {
        let pixels = usize::from(width) * usize::from(height);
        if pixels == 0 || pixels > MAX_PIXELS {
            return Err(RfbError::Nonsense(format!("a screen of {width} x {height} pixels")));
        }
        Ok(Self { width, height, rgb: vec![0; pixels * 3], painted: vec![false; pixels], missing: pixels })
    }

    /// Pixels in a row.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u16 {
        self.height
    }

    /// Its bytes.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Paints a part of a row, four bytes for each pixel.
    fn paint(&mut self, x: u16, y: u16, row: &[u8]) {
        let start = usize::from(y) * usize::from(self.width) + usize::from(x);
        for (at, pixel) in (start..).zip(row.chunks_exact(4)) {
            self.rgb[at * 3..][..3].copy_from_slice(&pixel[..3]);
            self.missing -= usize::from(!self.painted[at]);
            self.painted[at] = true;
        }
    }
}

/// Takes one picture.
pub async fn grab<S>(stream: &mut S, move_cursor: bool) -> Result<Picture, RfbError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    greet(stream).await?;
    let (width, height) = (stream.read_u16().await?, stream.read_u16().await?);
    let _its_own_format: [u8; 16] = read(stream).await?;
    let _name = text(stream).await?;
    let mut picture = Picture::new(width, height)?;
    let mut hello = vec![0, 0, 0, 0];
    hello.extend(PIXEL_FORMAT);
    hello.extend([2, 0, 0, 2]);
    hello.extend(RAW.to_be_bytes());
    hello.extend(DESKTOP_SIZE.to_be_bytes());
    if move_cursor {
        // To the middle, and a pixel on: guests with a mouse see only the way between two places.
        for (x, y) in [(width / 2, height / 2), (width / 2 + 1, height / 2 + 1)] {
            hello.extend([5, 0]);
            hello.extend(x.to_be_bytes());
            hello.extend(y.to_be_bytes());
        }
    }
    stream.write_all(&hello).await?;
    paint(stream, &mut picture).await?;
    Ok(picture)
}

/// Version, security and the wish to share the screen.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), RfbError> {
    let version: [u8; 12] = read(stream).await?;
    if version != VERSION {
        return Err(RfbError::Version(String::from_utf8_lossy(&version).into_owned()));
    }
    stream.write_all(&VERSION).await?;
    let count = stream.read_u8().await?;
    if count == 0 {
        return Err(RfbError::Refused(text(stream).await?));
    }
    let mut types = vec![0; usize::from(count)];
    stream.read_exact(&mut types).await?;
    if !types.contains(&NONE) {
        return Err(RfbError::Security(types));
    }
    stream.write_all(&[NONE]).await?;
    if stream.read_u32().await? != 0 {
        return Err(RfbError::Refused(text(stream).await?));
    }
    stream.write_all(&[1]).await?;
    Ok(())
}

/// Asks for the whole screen, whatever has been sent before.
async fn ask<S: AsyncWrite + Unpin>(stream: &mut S, picture: &Picture) -> Result<(), RfbError> {
    let mut request = vec![3, 0, 0, 0, 0, 0];
    request.extend(picture.width.to_be_bytes());
    request.extend(picture.height.to_be_bytes());
    Ok(stream.write_all(&request).await?)
}

/// Asks, and paints what comes, until nothing is missing.
async fn paint<S>(stream: &mut S, picture: &mut Picture) -> Result<(), RfbError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    ask(stream, picture).await?;
    while picture.missing > 0 {
        match stream.read_u8().await? {
            0 => {
                let _padding = stream.read_u8().await?;
                for _ in 0..stream.read_u16().await? {
                    rectangle(stream, picture).await?;
                }
                // One answer for each request; it may be a part, or of a size that the screen had.
                if picture.missing > 0 {
                    ask(stream, picture).await?;
                }
            }
            // Colours, a bell, and the clipboard: not a part of the picture.
            1 => {
                let _first: [u8; 3] = read(stream).await?;
                let count = stream.read_u16().await?;
                skip(stream, u64::from(count) * 6).await?;
            }
            2 => {}
            3 => {
                let _padding: [u8; 3] = read(stream).await?;
                let length = stream.read_u32().await?;
                skip(stream, length.into()).await?;
            }
            other => return Err(RfbError::Nonsense(format!("a message of type {other}"))),
        }
    }
    Ok(())
}

async fn rectangle<S: AsyncRead + Unpin>(stream: &mut S, picture: &mut Picture) -> Result<(), RfbError> {
    let (x, y) = (stream.read_u16().await?, stream.read_u16().await?);
    let (width, height) = (stream.read_u16().await?, stream.read_u16().await?);
    match stream.read_i32().await? {
        RAW => {}
        DESKTOP_SIZE => {
            *picture = Picture::new(width, height)?;
            return Ok(());
        }
        other => return Err(RfbError::Nonsense(format!("encoding {other}"))),
    }
    let fits = |at: u16, length: u16, limit: u16| at.checked_add(length).is_some_and(|end| end <= limit);
    if !fits(x, width, picture.width) || !fits(y, height, picture.height) {
        let (of_x, of_y) = (picture.width, picture.height);
        let what = format!("{width} x {height} pixels at {x}, {y} of a screen of {of_x} x {of_y}");
        return Err(RfbError::Nonsense(what));
    }
    let mut row = vec![0; usize::from(width) * 4];
    for y in y..y + height {
        stream.read_exact(&mut row).await?;
        picture.paint(x, y, &row);
    }
    Ok(())
}

async fn read<S: AsyncRead + Unpin, const N: usize>(stream: &mut S) -> Result<[u8; N], RfbError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn text<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String, RfbError> {
    let length = stream.read_u32().await?;
    let mut bytes = Vec::new();
    (&mut *stream).take(length.min(MAX_TEXT).into()).read_to_end(&mut bytes).await?;
    skip(stream, length.saturating_sub(MAX_TEXT).into()).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn skip<S: AsyncRead + Unpin>(stream: &mut S, length: u64) -> Result<(), RfbError> {
    tokio::io::copy(&mut (&mut *stream).take(length), &mut tokio::io::sink()).await?;
    Ok(())
}
