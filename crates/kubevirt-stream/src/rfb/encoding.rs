//! Encodings: how pixels are packed, and by the same numbers what a viewer understands beyond pixels.

pub(super) const RAW: i32 = 0;
pub(super) const COPY_RECT: i32 = 1;
pub(super) const RRE: i32 = 2;
pub(super) const CORRE: i32 = 4;
pub(super) const HEXTILE: i32 = 5;
pub(super) const TIGHT: i32 = 7;
pub(super) const TIGHT_PNG: i32 = -260;

pub(super) const DESKTOP_SIZE: i32 = -223;
pub(super) const LAST_RECT: i32 = -224;
pub(super) const CURSOR: i32 = -239;
pub(super) const X_CURSOR: i32 = -240;
pub(super) const POINTER_MOTION: i32 = -257;
pub(super) const EXTENDED_KEY: i32 = -258;
pub(super) const AUDIO: i32 = -259;
pub(super) const LED_STATE: i32 = -261;
pub(super) const DESKTOP_NAME: i32 = -307;
pub(super) const EXTENDED_DESKTOP_SIZE: i32 = -308;
const XVP: i32 = -309;
pub(super) const CURSOR_WITH_ALPHA: i32 = -314;
pub(super) const WMVI: i32 = 0x574D_5669;
/// Extended clipboard: 0xC0A1E5CE.
const EXTENDED_CLIPBOARD: i32 = -0x3F5E_1A32;

/// Whether a viewer's wish is passed on. What isn't known here isn't, and among what is known not what has a state that
/// lives as long as the connection and can't be set anew in the stream: the one zlib stream of Zlib (6), ZlibHex (8), ZRLE (16) and
/// ZYWRLE (17); fences (-312) and continuous updates (-313), which QEMU doesn't have either.
fn is_carried(encoding: i32) -> bool {
    match encoding {
        RAW | COPY_RECT | RRE | CORRE | HEXTILE | TIGHT | TIGHT_PNG => true,
        DESKTOP_SIZE
        | LAST_RECT
        | CURSOR
        | X_CURSOR
        | POINTER_MOTION
        | EXTENDED_KEY
        | AUDIO
        | LED_STATE
        | DESKTOP_NAME
        | EXTENDED_DESKTOP_SIZE
        | XVP
        | CURSOR_WITH_ALPHA
        | WMVI
        | EXTENDED_CLIPBOARD => true,
        // Levels of JPEG's quality and of compression, in steps of ten, and of JPEG's quality in per cent.
        -32..=-23 | -256..=-247 | -512..=-412 | -768..=-763 => true,
        _ => false,
    }
}

/// What is left of a viewer's list, in its order.
pub(super) fn carried(encodings: impl Iterator<Item = i32>) -> Vec<i32> {
    encodings.filter(|&encoding| is_carried(encoding)).collect()
}
