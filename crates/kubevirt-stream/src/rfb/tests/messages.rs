//! Where messages end, however they come in pieces; what is passed on; how hands are shaken.

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

use crate::rfb::Unfollowed;
use crate::rfb::client::ClientMessages;
use crate::rfb::encoding::carried;
use crate::rfb::format::PixelFormat;
use crate::rfb::handshake::{Greeting, Joining};
use crate::rfb::server::{Facts, Said, ServerMessages, WHOLE_LIMIT};

/// 32 bits, 24 of them colours.
pub(super) const TRUE_COLOUR: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
/// 16 bits.
const HIGH_COLOUR: [u8; 16] = [16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0];

fn rectangle(place: [u16; 4], encoding: i32, content: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = place.iter().flat_map(|number| number.to_be_bytes()).collect();
    bytes.extend(encoding.to_be_bytes());
    bytes.extend(content);
    bytes
}

fn update(count: u16, rectangles: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0, 7];
    bytes.extend(count.to_be_bytes());
    bytes.extend(rectangles.concat());
    bytes
}

fn one(place: [u16; 4], encoding: i32, content: &[u8]) -> Vec<u8> {
    update(1, &[rectangle(place, encoding, content)])
}

/// What is full of bytes that would be something else elsewhere.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 37 % 251) as u8).collect()
}

/// Each message that a server may send in true colour, and what it changes.
fn server_messages() -> Vec<(Vec<u8>, Facts)> {
    let plain = Facts::default();
    let picture = Facts { picture: true, ..plain };
    let sized = |width, height| Facts { size: Some((width, height)), ..plain };
    let tight = |place, content: &[&[u8]]| one(place, 7, &content.concat());
    vec![
        (one([0, 0, 3, 2], 0, &noise(24)), picture),
        (one([0, 0, 3, 2], 1, &noise(4)), picture),
        (one([0, 0, 9, 9], 2, &[&[0, 0, 0, 2][..], &noise(4 + 2 * 12)].concat()), picture),
        (one([0, 0, 9, 9], 4, &[&[0, 0, 0, 3][..], &noise(4 + 3 * 8)].concat()), picture),
        // Four tiles: raw of 16 x 16, both colours, three coloured subrectangles, raw of 1 x 4 at the corner.
        (
            one(
                [5, 5, 17, 20],
                5,
                &[
                    &[1][..],
                    &noise(16 * 16 * 4),
                    &[6],
                    &noise(8),
                    &[2 | 8 | 16],
                    &noise(4),
                    &[3],
                    &noise(3 * 6),
                    &[1],
                    &noise(4 * 4),
                ]
                .concat(),
            ),
            picture,
        ),
        // Two tiles: plain subrectangles, and nothing.
        (one([0, 0, 32, 1], 5, &[&[4 | 8][..], &noise(4), &[2], &noise(4), &[0]].concat()), picture),
        // Filled, a JPEG, copied, too little to be packed, differences, two colours, many colours.
        (tight([0, 0, 64, 64], &[&[0x80], &noise(3)]), picture),
        (tight([0, 0, 64, 64], &[&[0x90, 0x81, 0x02], &noise(257)]), picture),
        (tight([0, 0, 64, 64], &[&[0x10, 0xFF, 0xFF, 0x01], &noise(0x7FFF)]), picture),
        (tight([0, 0, 3, 1], &[&[0x20], &noise(9)]), picture),
        (tight([0, 0, 4, 1], &[&[0x30, 0x05], &noise(5)]), picture),
        (tight([0, 0, 9, 9], &[&[0x60, 2, 0x07], &noise(7)]), picture),
        (tight([0, 0, 9, 5], &[&[0x50, 1, 1], &noise(6), &noise(10)]), picture),
        (tight([0, 0, 9, 6], &[&[0x50, 1, 1], &noise(6), &[0x09], &noise(9)]), picture),
        (tight([0, 0, 9, 6], &[&[0x50, 1, 4], &noise(15), &[0x08], &noise(8)]), picture),
        (one([0, 0, 9, 6], -260, &[&[0xA0, 0x03][..], &noise(3)].concat()), picture),
        (one([0, 0, 800, 600], -223, &[]), sized(800, 600)),
        (one([0, 0, 800, 600], -308, &[&[2, 0, 0, 0][..], &noise(32)].concat()), sized(800, 600)),
        (one([1, 3, 80, 60], -308, &[&[1, 0, 0, 0][..], &noise(16)].concat()), plain),
        (one([1, 1, 9, 2], -239, &noise(9 * 2 * 4 + 4)), plain),
        (one([1, 1, 9, 2], -240, &noise(6 + 8)), plain),
        (one([0, 0, 0, 0], -240, &[]), plain),
        (one([1, 1, 9, 2], -314, &[&[0, 0, 0, 0][..], &noise(72)].concat()), plain),
        (update(2, &[rectangle([1, 0, 0, 0], -257, &[]), rectangle([0, 0, 8, 8], -258, &[])]), plain),
        (update(2, &[rectangle([0, 0, 8, 8], -259, &[]), rectangle([0, 0, 0, 0], -261, &[5])]), plain),
        (one([0, 0, 0, 0], -307, &[&[0, 0, 0, 4][..], b"QEMU"].concat()), plain),
        (update(0xFFFF, &[rectangle([0, 0, 1, 1], 0, &noise(4)), rectangle([0; 4], -224, &[])]), picture),
        (update(0, &[]), plain),
        ([&[1, 0, 0, 0, 0, 2][..], &noise(12)].concat(), plain),
        (vec![2], plain),
        ([&[3, 0, 0, 0, 0, 0, 0, 5][..], b"hello"].concat(), plain),
        ([&[3, 0, 0, 0, 255, 255, 255, 250][..], &noise(6)].concat(), plain),
        (vec![150], plain),
        ([&[248, 0, 0, 0, 0, 0, 0, 1, 3][..], &noise(3)].concat(), plain),
        (vec![250, 0, 1, 1], plain),
        (vec![255, 1, 0, 1], plain),
        ([&[255, 1, 0, 2, 0, 0, 0, 9][..], &noise(9)].concat(), plain),
    ]
}

fn true_colour(limit: usize) -> ServerMessages {
    ServerMessages::new(PixelFormat(TRUE_COLOUR).layout().unwrap(), false, limit)
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), prop::collection::vec(1usize..5000, 1..20)]
}

/// Cuts bytes into pieces of these lengths, over and over.
fn cut<'a>(mut bytes: &'a [u8], pieces: &[usize]) -> Vec<&'a [u8]> {
    let mut all = Vec::new();
    for &length in pieces.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        all.push(piece);
        bytes = rest;
    }
    all
}

proptest! {
    #[test]
    fn a_servers_messages_end_where_they_end(
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..25),
        pieces in pieces(),
    ) {
        let known = server_messages();
        let sent: Vec<(Vec<u8>, Facts)> = order.iter().map(|index| index.get(&known).clone()).collect();
        let stream: Vec<u8> = sent.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let (mut whole, mut messages) = (Vec::new(), true_colour(WHOLE_LIMIT));
        for piece in cut(&stream, &pieces) {
            messages.push(piece);
            while let Some(said) = messages.next().unwrap() {
                let Said::Whole(bytes, facts) = said else { panic!("nothing is long") };
                whole.push((bytes, facts));
            }
        }
        assert_eq!(whole, sent);
        assert_eq!(messages.take_rest(), b"");
    }

    #[test]
    fn what_is_too_long_is_passed_on_as_it_comes(
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..25),
        pieces in pieces(),
        limit in 1usize..2000,
    ) {
        let known = server_messages();
        let stream: Vec<u8> = order.iter().flat_map(|index| index.get(&known).0.clone()).collect();
        let (mut given, mut messages) = (Vec::new(), true_colour(limit));
        for piece in cut(&stream, &pieces) {
            messages.push(piece);
            while let Some(said) = messages.next().unwrap() {
                match said {
                    Said::Whole(bytes, _) | Said::Part(bytes) => given.extend(bytes),
                }
            }
        }
        given.extend(messages.take_rest());
        assert_eq!(given, stream);
        assert!(!messages.is_parted());
    }

    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0u8..4) {
        let mut messages = true_colour(100);
        messages.push(&[kind]);
        messages.push(&bytes);
        while let Ok(Some(_)) = messages.next() {}
        let mut messages = ClientMessages::default();
        messages.push(&bytes);
        while let Ok(Some(_)) = messages.next() {}
    }
}

#[test]
fn pixels_have_the_size_that_was_chosen() {
    let mut messages = true_colour(WHOLE_LIMIT);
    messages.set_layout(PixelFormat(HIGH_COLOUR).layout().unwrap());
    let raw = one([0, 0, 3, 2], 0, &noise(12));
    let filled = one([0, 0, 3, 2], 7, &[0x80, 1, 2]);
    // The server goes back to true colour by itself.
    let news = one([0, 0, 3, 2], 0x574D_5669, &TRUE_COLOUR);
    let wide = one([0, 0, 3, 2], 0, &noise(24));
    messages.push(&[raw.clone(), filled.clone(), news.clone(), wide.clone()].concat());
    let picture = Facts { picture: true, ..Facts::default() };
    let changed = Facts { format: Some(PixelFormat(TRUE_COLOUR)), ..Facts::default() };
    for (bytes, facts) in [(raw, picture), (filled, picture), (news, changed), (wide, picture)] {
        assert_eq!(messages.next(), Ok(Some(Said::Whole(bytes, facts))));
    }
}

#[test]
fn what_nobody_asked_for_is_named() {
    for (bytes, why) in [
        (vec![9], Unfollowed::ServerMessage(9)),
        (vec![255, 2, 0, 0], Unfollowed::ServerMessage(255)),
        (one([0, 0, 1, 1], 16, &[]), Unfollowed::Encoding(16)),
        (one([0, 0, 1, 1], -314, &[0, 0, 0, 16]), Unfollowed::Encoding(16)),
        (one([0, 0, 1, 1], 7, &[0xA0]), Unfollowed::Tight(0xA0)),
        (one([0, 0, 1, 1], 7, &[0x40, 3]), Unfollowed::Tight(3)),
    ] {
        let mut messages = true_colour(WHOLE_LIMIT);
        messages.push(&bytes);
        assert_eq!(messages.next(), Err(why));
        assert_eq!(messages.take_rest(), bytes, "it is carried on as it came");
    }
    for (bytes, why) in [
        (vec![77], Unfollowed::ClientMessage(77)),
        (vec![255, 9], Unfollowed::ClientMessage(255)),
        (vec![6, 0, 0, 0, 0, 16, 0, 1], Unfollowed::Clipboard((1 << 20) + 1)),
    ] {
        let mut messages = ClientMessages::default();
        messages.push(&bytes);
        assert_eq!(messages.next(), Err(why));
        assert_eq!(messages.take_rest(), bytes);
    }
}

#[test]
fn a_viewers_zlib_streams_begin_anew_once() {
    let layout = PixelFormat(TRUE_COLOUR).layout().unwrap();
    let mut messages = ServerMessages::new(layout, true, WHOLE_LIMIT);
    let filled = |control| one([0, 0, 3, 2], 7, &[control, 1, 2, 3]);
    let packed = |control| one([0, 0, 4, 1], 7, &[control, 2, 8, 9]);
    messages.push(&[filled(0x80), packed(0x10), packed(0x10), filled(0x80)].concat());
    for expected in [filled(0x8F), packed(0x1F), packed(0x10), filled(0x80)] {
        let Ok(Some(Said::Whole(bytes, _))) = messages.next() else { panic!("it is whole") };
        assert_eq!(bytes, expected);
    }
    assert!(messages.is_plain());
}

#[test]
fn a_viewers_messages_end_where_they_end() {
    let sent: Vec<Vec<u8>> = vec![
        [&[0, 0, 0, 0][..], &TRUE_COLOUR].concat(),
        [&[1, 0, 0, 0, 0, 2][..], &noise(12)].concat(),
        vec![2, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0],
        vec![3, 1, 0, 0, 0, 0, 0, 9, 0, 9],
        vec![4, 1, 0, 0, 0, 0, 0, 97],
        vec![5, 1, 0, 9, 0, 9],
        [&[6, 0, 0, 0, 0, 0, 0, 3][..], b"abc"].concat(),
        [&[6, 0, 0, 0, 255, 255, 255, 252][..], &noise(4)].concat(),
        [&[150, 1][..], &noise(8)].concat(),
        [&[248, 0, 0, 0, 0, 0, 0, 0, 2][..], &noise(2)].concat(),
        vec![250, 0, 1, 2],
        [&[251, 0, 3, 32, 2, 88, 1, 0][..], &noise(16)].concat(),
        [&[255, 0, 0, 1][..], &noise(8)].concat(),
        vec![255, 1, 0, 0],
        [&[255, 1, 0, 2][..], &noise(6)].concat(),
    ];
    let stream = sent.concat();
    for length in 1..=stream.len() {
        let (mut taken, mut messages) = (Vec::new(), ClientMessages::default());
        for piece in stream.chunks(length) {
            messages.push(piece);
            while let Some(message) = messages.next().unwrap() {
                taken.push(message);
            }
        }
        assert_eq!((taken, messages.len()), (sent.clone(), 0));
    }
}

#[test]
fn only_what_can_begin_anew_is_asked_for() {
    let wishes =
        [7, 16, 6, 8, 17, 5, 0, 15, -223, -308, -312, -313, -26, -250, -412, -1_063_131_698, 99, -239];
    let expected = [7, 5, 0, -223, -308, -26, -250, -412, -1_063_131_698, -239];
    assert_eq!(carried(wishes.into_iter()), expected);
    assert_eq!(0xC0A1_E5CE_u32 as i32, -1_063_131_698);
}

#[test]
fn hands_are_shaken_in_every_version() {
    let init = [&[0, 9, 0, 5][..], &TRUE_COLOUR, &[0, 0, 0, 2], b"vm"].concat();
    // What the viewer says and hears; what a server of this version says and hears.
    let three: (Vec<u8>, &[u8]) = (b"RFB 003.003\n\x01".to_vec(), b"\0\0\0\x01");
    let seven = (b"RFB 003.007\n\x01\x01".to_vec(), &b"\x01\x01"[..]);
    let eight = (b"RFB 003.008\n\x01\x01".to_vec(), &b"\x01\x01\0\0\0\0"[..]);
    for (version, (says, hears)) in [("3", three), ("7", seven), ("8", eight)] {
        for length in 1..20 {
            let (mut greeting, hello) = Greeting::begin();
            assert_eq!(hello, b"RFB 003.008\n");
            let (mut said, mut answer) = (Vec::new(), Vec::new());
            for piece in [&says[..], b"rest"].concat().chunks(length) {
                said.extend(piece);
                greeting.take(&mut said, &mut answer).unwrap();
            }
            assert!(matches!(greeting, Greeting::Done));
            assert_eq!((said.as_slice(), answer.as_slice()), (&b"rest"[..], hears));

            let server = [format!("RFB 003.00{version}\n").as_bytes(), hears, &init, b"rest"].concat();
            let (mut joining, mut said, mut answer) = (Joining::Version, Vec::new(), Vec::new());
            let mut joined = None;
            for piece in server.chunks(length) {
                said.extend(piece);
                if joined.is_none() {
                    joined = joining.take(&mut said, &mut answer).unwrap();
                }
            }
            let joined = joined.unwrap();
            assert_eq!((joined.size, joined.bytes()), ((9, 5), init.clone()));
            assert_eq!((said.as_slice(), answer), (&b"rest"[..], says.clone()));
        }
    }
}

#[test]
fn hands_that_arent_given_are_an_error_in_words() {
    let server = |said: &[u8]| Joining::Version.take(&mut said.to_vec(), &mut Vec::new()).unwrap_err();
    assert_eq!(server(b"SSH-2.0-Open"), "it doesn't speak RFB: \"SSH-2.0-Open\"");
    assert_eq!(server(b"RFB 003.008\n\0\0\0\0\x04full"), "it refuses the session: full");
    assert_eq!(server(b"RFB 003.003\n\0\0\0\0\0\0\0\x04full"), "it refuses the session: full");
    assert_eq!(server(b"RFB 003.008\n\x01\x02"), "it wants authentication (types [2])");
    assert_eq!(server(b"RFB 003.003\n\0\0\0\x02"), "it wants authentication (type 2)");
    assert_eq!(server(b"RFB 003.008\n\x01\x01\0\0\0\x01\0\0\0\x02no"), "it refuses the session: no");
    assert!(server(b"RFB 003.008\n\0\x01\0\0\0").starts_with("it has a name or an excuse of 16777"));
    let viewer = |said: &[u8]| Greeting::begin().0.take(&mut said.to_vec(), &mut Vec::new()).unwrap_err();
    assert_eq!(viewer(b"GET / HTTP/1.1"), "not RFB: \"GET / HTTP/1\"");
    assert_eq!(viewer(b"RFB 003.008\n\x02"), "security type 2 was not offered");
}
