//! Where a rectangle ends, by its encoding.

use super::encoding::{
    AUDIO, COPY_RECT, CORRE, CURSOR, CURSOR_WITH_ALPHA, DESKTOP_NAME, DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE,
    EXTENDED_KEY, HEXTILE, LAST_RECT, LED_STATE, POINTER_MOTION, RAW, RRE, TIGHT, TIGHT_PNG, WMVI, X_CURSOR,
};
use super::format::Layout;
use super::{Unfollowed, i32_at, u16_at, u32_at};

/// The bytes before a rectangle's content.
pub(super) const HEADER: usize = 12;
/// A Tight rectangle with less isn't compressed, and its length isn't told.
const TIGHT_LEAST: u64 = 12;
/// Bits of Tight's control byte: each has the viewer begin one of its four zlib streams anew. They hold for whatever kind of
/// rectangle follows.
const TIGHT_RESET: u8 = 0x0F;
const TILE: u64 = 16;

/// A rectangle's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) x: u16,
    pub(super) y: u16,
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) encoding: i32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self {
            x: u16_at(bytes, 0),
            y: u16_at(bytes, 2),
            width: u16_at(bytes, 4),
            height: u16_at(bytes, 6),
            encoding: i32_at(bytes, 8),
        }
    }

    fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Bytes of a mask with a bit for each pixel.
    fn mask(&self) -> u64 {
        u64::from(self.width).div_ceil(8) * u64::from(self.height)
    }

    /// Whether it is a part of the picture.
    pub(super) fn is_picture(&self) -> bool {
        matches!(self.encoding, RAW | COPY_RECT | RRE | CORRE | HEXTILE | TIGHT | TIGHT_PNG)
    }
}

/// What is to be read next of a rectangle's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// So many bytes, and then what follows them.
    Skip(u64, Then),
    /// A count of subrectangles, the background, and so many bytes for each.
    Subrectangles(u64),
    /// The tile of this number.
    Tile(u64),
    /// How many coloured or plain subrectangles the tile has; the next tile's number.
    TileSubrectangles(u64, u64),
    /// How many screens.
    Screens,
    /// A text's length.
    Text,
    /// The encoding of a cursor's pixels.
    Alpha,
    /// A pixel format.
    Format,
    /// Tight's control byte.
    TightControl,
    /// Tight's filter, where one is named.
    TightFilter,
    /// How many colours Tight's palette has.
    TightPalette,
    /// How many bytes follow.
    TightLength,
    /// Nothing: it is over.
    End,
}

/// What follows bytes that mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    End,
    Tile(u64),
    /// So many bytes of Tight, before they were compressed.
    TightData(u64),
}

impl Then {
    pub(super) fn content(self) -> Content {
        match self {
            Self::End => Content::End,
            Self::Tile(number) => Content::Tile(number),
            Self::TightData(length @ ..TIGHT_LEAST) => skip(length),
            Self::TightData(_) => Content::TightLength,
        }
    }
}

fn skip(length: u64) -> Content {
    Content::Skip(length, Then::End)
}

/// What a rectangle's content begins with.
pub(super) fn begin(header: &Header, layout: Layout) -> Result<Content, Unfollowed> {
    Ok(match header.encoding {
        RAW => skip(header.pixels() * layout.pixel),
        COPY_RECT => skip(4),
        RRE => Content::Subrectangles(layout.pixel + 8),
        CORRE => Content::Subrectangles(layout.pixel + 4),
        HEXTILE => Content::Tile(0),
        TIGHT | TIGHT_PNG => Content::TightControl,
        DESKTOP_SIZE | LAST_RECT | POINTER_MOTION | EXTENDED_KEY | AUDIO => Content::End,
        CURSOR => skip(header.pixels() * layout.pixel + header.mask()),
        X_CURSOR if header.pixels() == 0 => Content::End,
        X_CURSOR => skip(6 + 2 * header.mask()),
        LED_STATE => skip(1),
        DESKTOP_NAME => Content::Text,
        EXTENDED_DESKTOP_SIZE => Content::Screens,
        CURSOR_WITH_ALPHA => Content::Alpha,
        WMVI => Content::Format,
        other => return Err(Unfollowed::Encoding(other)),
    })
}

/// What a step through a rectangle needs to know.
pub(super) struct Context<'a> {
    pub(super) header: &'a Header,
    pub(super) layout: Layout,
    /// The viewer's zlib streams are of another server's; set until it has been told to begin them anew.
    pub(super) reset: &'a mut bool,
}

/// One step: how many of `bytes` it took, and what is next. None while there are too few.
pub(super) fn step(
    content: Content,
    bytes: &mut [u8],
    context: &mut Context<'_>,
) -> Result<Option<(usize, Content)>, Unfollowed> {
    let (header, layout) = (context.header, context.layout);
    let needed = match content {
        Content::End => 0,
        Content::Skip(..) | Content::Tile(_) | Content::TileSubrectangles(..) => 1,
        Content::TightControl | Content::TightFilter | Content::TightPalette | Content::TightLength => 1,
        Content::Subrectangles(_) | Content::Screens | Content::Text | Content::Alpha => 4,
        Content::Format => 16,
    };
    if let Content::Skip(0, then) = content {
        return Ok(Some((0, then.content())));
    }
    if let Content::Tile(number) = content
        && number == tiles(header)
    {
        return Ok(Some((0, Content::End)));
    }
    if bytes.len() < needed {
        return Ok(None);
    }
    let (taken, next) = match content {
        Content::End => (0, Content::End),
        Content::Skip(length, then) => {
            let there = length.min(bytes.len() as u64);
            (there as usize, Content::Skip(length - there, then))
        }
        Content::Subrectangles(each) => (4, skip(layout.pixel + u64::from(u32_at(bytes, 0)) * each)),
        Content::Screens => (4, skip(u64::from(bytes[0]) * 16)),
        Content::Text => (4, skip(u32_at(bytes, 0).into())),
        Content::Alpha => match i32_at(bytes, 0) {
            RAW => (4, skip(header.pixels() * 4)),
            other => return Err(Unfollowed::Encoding(other)),
        },
        Content::Format => (16, Content::End),
        Content::Tile(number) => return tile(number, bytes, header, layout),
        Content::TileSubrectangles(each, next) => {
            (1, Content::Skip(u64::from(bytes[0]) * each, Then::Tile(next)))
        }
        Content::TightControl => (1, control(&mut bytes[0], context)?),
        Content::TightFilter => (1, filter(bytes[0], header, layout)?),
        Content::TightPalette => (1, palette(u64::from(bytes[0]) + 1, header, layout)?),
        Content::TightLength => return Ok(compact(bytes).map(|(taken, length)| (taken, skip(length)))),
    };
    Ok(Some((taken, next)))
}

fn tiles(header: &Header) -> u64 {
    u64::from(header.width).div_ceil(TILE) * u64::from(header.height).div_ceil(TILE)
}

/// Hextile: a byte that says what follows. Tiles at the edges are smaller.
fn tile(
    number: u64,
    bytes: &[u8],
    header: &Header,
    layout: Layout,
) -> Result<Option<(usize, Content)>, Unfollowed> {
    let (width, height) = (u64::from(header.width), u64::from(header.height));
    let in_row = width.div_ceil(TILE);
    let (column, row) = (number % in_row, number / in_row);
    let [raw, background, foreground, any, coloured] = [1, 2, 4, 8, 16].map(|bit| bytes[0] & bit != 0);
    if raw {
        let pixels = TILE.min(width - column * TILE) * TILE.min(height - row * TILE);
        return Ok(Some((1, Content::Skip(pixels * layout.pixel, Then::Tile(number + 1)))));
    }
    let colours = (u64::from(background) + u64::from(foreground)) * layout.pixel;
    if !any {
        return Ok(Some((1, Content::Skip(colours, Then::Tile(number + 1)))));
    }
    let taken = 1 + colours as usize;
    let each = if coloured { layout.pixel + 2 } else { 2 };
    Ok((bytes.len() >= taken).then_some((taken, Content::TileSubrectangles(each, number + 1))))
}

/// Tight's control byte: which streams begin anew, and what follows.
fn control(byte: &mut u8, context: &mut Context<'_>) -> Result<Content, Unfollowed> {
    let (kind, png) = (*byte >> 4, context.header.encoding == TIGHT_PNG);
    let next = match kind {
        0x8 => skip(context.layout.tight),
        0x9 => Content::TightLength,
        0xA if png => Content::TightLength,
        0..=3 => Then::TightData(context.header.pixels() * context.layout.tight).content(),
        4..=7 => Content::TightFilter,
        _ => return Err(Unfollowed::Tight(*byte)),
    };
    if *context.reset {
        *byte |= TIGHT_RESET;
        // A viewer may overlook it where it doesn't use a stream.
        *context.reset = kind >= 8;
    }
    Ok(next)
}

fn filter(byte: u8, header: &Header, layout: Layout) -> Result<Content, Unfollowed> {
    match byte {
        // As they are, or as differences.
        0 | 2 => Ok(Then::TightData(header.pixels() * layout.tight).content()),
        1 => Ok(Content::TightPalette),
        other => Err(Unfollowed::Tight(other)),
    }
}

fn palette(colours: u64, header: &Header, layout: Layout) -> Result<Content, Unfollowed> {
    let indices = match colours {
        // Nobody sends it, and readers don't agree on what it would mean.
        1 => return Err(Unfollowed::Tight(0)),
        2 => header.mask(),
        _ => header.pixels(),
    };
    Ok(Content::Skip(colours * layout.tight, Then::TightData(indices)))
}

/// A length of one to three bytes, seven bits in each of the first two, the lowest first.
fn compact(bytes: &[u8]) -> Option<(usize, u64)> {
    let byte = |at: usize| bytes.get(at).map(|&byte| u64::from(byte));
    let first = byte(0)?;
    if first < 0x80 {
        return Some((1, first));
    }
    let second = byte(1)?;
    if second < 0x80 {
        return Some((2, first & 0x7F | second << 7));
    }
    Some((3, first & 0x7F | (second & 0x7F) << 7 | byte(2)? << 14))
}
