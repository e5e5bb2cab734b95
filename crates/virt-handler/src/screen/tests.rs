//! Pictures from a server in memory that behaves, one that sends in pieces, and several that don't.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::pack::pack;
use super::rfb::{Picture, RfbError, grab};

const HELLO: &[u8] = b"RFB 003.008\n";

/// Name and size of a screen, as a server says them after the handshake.
fn init(width: u16, height: u16) -> Vec<u8> {
    let mut init = Vec::from(width.to_be_bytes());
    init.extend(height.to_be_bytes());
    init.extend([0; 16]);
    init.extend(4u32.to_be_bytes());
    init.extend(b"QEMU");
    init
}

fn update(rectangles: &[Vec<u8>]) -> Vec<u8> {
    let mut update = vec![0, 0];
    update.extend(u16::try_from(rectangles.len()).unwrap().to_be_bytes());
    update.extend(rectangles.concat());
    update
}

/// A rectangle in one colour.
fn raw(place: [u16; 4], colour: [u8; 3]) -> Vec<u8> {
    let mut rectangle: Vec<u8> = place.iter().flat_map(|number| number.to_be_bytes()).collect();
    rectangle.extend(0i32.to_be_bytes());
    let pixels = usize::from(place[2]) * usize::from(place[3]);
    rectangle.extend([colour[0], colour[1], colour[2], 99].repeat(pixels));
    rectangle
}

fn resized(width: u16, height: u16) -> Vec<u8> {
    let place = [0, 0, width, height];
    let mut rectangle: Vec<u8> = place.iter().flat_map(|number| number.to_be_bytes()).collect();
    rectangle.extend((-223i32).to_be_bytes());
    rectangle
}

/// Answers each request for the screen with the next of `answers`; returns what the client said before the first.
async fn serve(mut stream: DuplexStream, size: (u16, u16), answers: Vec<Vec<u8>>) -> Vec<u8> {
    stream.write_all(HELLO).await.unwrap();
    let mut said = [0; 12];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(said, HELLO);
    stream.write_all(&[2, 18, 1]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 1);
    stream.write_all(&[0; 4]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 1, "the session is shared");
    stream.write_all(&init(size.0, size.1)).await.unwrap();
    let mut options = Vec::new();
    for answer in answers {
        let mut request = [0; 10];
        loop {
            match stream.read_u8().await.unwrap() {
                3 => break,
                other => options.push(other),
            }
            // Pixel format, encodings, pointer: each as long as the client makes it.
            let mut rest = vec![0; [19, 0, 11, 0, 0, 5][usize::from(*options.last().unwrap())]];
            stream.read_exact(&mut rest).await.unwrap();
            options.extend(rest);
        }
        stream.read_exact(&mut request[1..]).await.unwrap();
        assert_eq!(request[1], 0, "the whole screen is asked for, not what has changed");
        stream.write_all(&answer).await.unwrap();
    }
    options
}

async fn picture(size: (u16, u16), answers: Vec<Vec<u8>>) -> Result<Picture, RfbError> {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(serve(far, size, answers));
    let picture = grab(&mut near, false).await;
    drop(near);
    server.await.unwrap();
    picture
}

#[tokio::test]
async fn a_picture_comes_in_pieces_between_other_news() {
    let (red, green, blue) = ([255, 0, 0], [0, 255, 0], [0, 0, 255]);
    let colours = [&[1, 0, 0, 0, 0, 1][..], &[9; 6]].concat();
    let clipboard = [&[3, 0, 0, 0, 0, 0, 0, 2][..], b"hi"].concat();
    let first = [colours, vec![2], clipboard, update(&[raw([0, 0, 3, 1], red)])].concat();
    let second = update(&[raw([0, 1, 1, 1], green), raw([1, 1, 2, 1], blue)]);
    let picture = picture((3, 2), vec![first, second]).await.unwrap();
    assert_eq!((picture.width(), picture.height()), (3, 2));
    assert_eq!(picture.rgb(), [red, red, red, green, blue, blue].concat());
}

#[tokio::test]
async fn a_screen_that_changes_its_size_is_asked_again() {
    let picture = picture(
        (2, 2),
        vec![update(&[raw([0, 0, 2, 1], [1, 1, 1]), resized(1, 3)]), update(&[raw([0, 0, 1, 3], [7, 8, 9])])],
    )
    .await
    .unwrap();
    assert_eq!((picture.width(), picture.height()), (1, 3));
    assert_eq!(picture.rgb(), [7, 8, 9].repeat(3));
}

#[tokio::test]
async fn the_cursor_is_moved_only_when_asked() {
    for (move_cursor, pointers) in [(false, vec![]), (true, vec![[5, 0, 0, 2, 0, 1], [5, 0, 0, 3, 0, 2]])] {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(serve(far, (4, 2), vec![update(&[raw([0, 0, 4, 2], [0; 3])])]));
        grab(&mut near, move_cursor).await.unwrap();
        let said = server.await.unwrap();
        assert_eq!(said[..20], [0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0]);
        assert_eq!(said[20..32], [2, 0, 0, 2, 0, 0, 0, 0, 255, 255, 255, 33]);
        assert_eq!(said[32..], pointers.concat());
    }
}

#[tokio::test]
async fn nonsense_is_named_and_never_followed() {
    let mut compressed = raw([0, 0, 2, 2], [0; 3]);
    compressed[11] = 7;
    let cases = [
        (update(&[raw([1, 0, 2, 1], [0; 3])]), "2 x 1 pixels at 1, 0 of a screen of 2 x 2"),
        (update(&[raw([0, 65535, 1, 1], [0; 3])]), "1 x 1 pixels at 0, 65535"),
        (update(&[resized(0, 5)]), "a screen of 0 x 5 pixels"),
        (update(&[resized(65535, 65535)]), "a screen of 65535 x 65535 pixels"),
        (update(&[compressed]), "encoding 7"),
        (vec![42], "a message of type 42"),
    ];
    for (answer, expected) in cases {
        let error = picture((2, 2), vec![answer]).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(matches!(picture((2, 2), vec![]).await, Err(RfbError::Io(_))));
}

#[tokio::test]
async fn a_refusal_is_told_in_its_words() {
    let said = async |script: &[u8]| {
        let (mut near, mut far) = tokio::io::duplex(4096);
        far.write_all(script).await.unwrap();
        grab(&mut near, false).await.unwrap_err().to_string()
    };
    let refusal = [HELLO, &[0, 0, 0, 0, 4], b"full"].concat();
    assert_eq!(said(&refusal).await, "the screen refuses the session: full");
    assert_eq!(said(&[HELLO, &[1, 2]].concat()).await, "the screen wants authentication (types [2])");
    assert_eq!(said(b"SSH-2.0-Open").await, "the screen doesn't speak RFB 3.8: \"SSH-2.0-Open\"");
}

#[tokio::test]
async fn a_packed_picture_is_the_same_picture() {
    let answer = update(&[raw([0, 0, 5, 3], [10, 20, 30])]);
    let picture = picture((5, 3), vec![answer]).await.unwrap();
    let file = pack(&picture).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (5, 3));
    assert_eq!(pixels, picture.rgb());
}
