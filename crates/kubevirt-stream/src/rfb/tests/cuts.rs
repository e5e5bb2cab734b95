//! A viewer whose server is lost, at every byte of what is said.

use super::qemu::{Guest, Qemu};
use super::viewer::Viewer;
use crate::rfb::{Failure, Splice, Unfollowed};

/// A viewer, a guest, and a server that can be lost.
struct World {
    guest: Guest,
    qemu: Qemu,
    viewer: Viewer,
    splice: Splice,
    /// Bytes on their way from the server.
    on_the_way: Vec<u8>,
    /// Whether the server gets what the viewer says.
    acknowledges: bool,
    /// Bytes that were said to servers.
    given: u64,
}

impl World {
    fn new(encodings: &[i32]) -> Self {
        let mut guest = Guest::new(20, 6);
        guest.paint(3);
        let (qemu, on_the_way) = Qemu::accept(&guest);
        let (viewer, splice) = (Viewer::new(encodings), Splice::new());
        Self { guest, qemu, viewer, splice, on_the_way, acknowledges: true, given: 0 }
    }

    /// Until nobody has anything more to say, or the server has said `limit` bytes more. Returns what it has said.
    fn run(&mut self, limit: usize) -> usize {
        let mut said = 0;
        loop {
            let quiet = self.on_the_way.is_empty();
            let count = self.on_the_way.len().min(limit - said);
            said += count;
            let bytes: Vec<u8> = self.on_the_way.drain(..count).collect();
            self.splice.from_server(&bytes);
            let mut talked = false;
            while let Some(bytes) = self.splice.take_for_client() {
                talked = true;
                let answer = self.viewer.hear(&bytes);
                self.splice.from_client(&answer);
            }
            while let Some(bytes) = self.splice.take_for_server() {
                talked = true;
                self.given += bytes.len() as u64;
                self.on_the_way.extend(self.qemu.hear(&bytes, &mut self.guest));
            }
            if let Some(number) = self.splice.take_ack_request().filter(|_| self.acknowledges) {
                self.splice.acked(number);
            }
            self.on_the_way.extend(self.qemu.show(&self.guest));
            if said == limit || (quiet && !talked && self.on_the_way.is_empty()) {
                return said;
            }
        }
    }

    /// Another server comes, whose launcher doesn't count.
    fn lose_server(&mut self, moved: bool) {
        self.lose_server_behind(moved, None);
    }

    /// Another server comes, whose launcher has taken so many bytes of the session.
    fn lose_server_behind(&mut self, moved: bool, received: Option<u64>) {
        assert!(self.splice.server_lost(moved), "{:?}", self.splice.failure());
        (self.qemu, self.on_the_way) = Qemu::accept(&self.guest);
        self.splice.attached(received);
    }

    fn says(&mut self, bytes: &[u8]) {
        self.splice.from_client(bytes);
    }

    fn assert_shown(&self, when: &str) {
        assert!(self.splice.failure().is_none(), "{when}: {:?}", self.splice.failure());
        assert!(self.viewer.is_between_messages(), "{when}");
        assert!(self.viewer.rows == self.guest.rows, "{when}: the viewer sees something else");
    }
}

const KEY_A: [u8; 8] = [4, 1, 0, 0, 0, 0, 0, 97];
const KEY_A_UP: [u8; 8] = [4, 0, 0, 0, 0, 0, 0, 97];
const SHIFT: [u8; 8] = [4, 1, 0, 0, 0, 0, 0xFF, 0xE1];
const MOVE: [u8; 6] = [5, 0, 0, 3, 0, 3];
const CLICK: [u8; 6] = [5, 1, 0, 7, 0, 7];

#[test]
fn a_server_is_lost_at_every_byte_and_the_viewer_sees_the_same() {
    for encodings in [&[7, 16, 0, -223, -258][..], &[0, -223], &[-258]] {
        let mut total = World::new(encodings);
        let mut all = total.run(usize::MAX);
        total.guest.paint(5);
        all += total.run(usize::MAX);
        total.assert_shown("without a cut");
        assert_eq!(total.viewer.updates, 2);
        for cut in 0..=all {
            let mut world = World::new(encodings);
            let said = world.run(cut);
            if said < cut {
                world.guest.paint(5);
                world.run(cut - said);
            }
            world.lose_server(cut % 2 == 0);
            // What nobody tells the viewer of but the next server.
            world.guest.paint(7);
            world.run(usize::MAX);
            world.assert_shown(&format!("cut at {cut} of {all}"));
            // And it goes on: with the zlib streams of the new server, too.
            world.guest.paint(9);
            world.run(usize::MAX);
            world.assert_shown(&format!("behind the cut at {cut} of {all}"));
            world.lose_server(false);
            world.run(usize::MAX);
            world.assert_shown(&format!("cut again after {cut} of {all}"));
        }
    }
}

#[test]
fn a_new_server_is_lost_at_every_byte_too() {
    let encodings = [7, -223, -258];
    for cut in 0..1000 {
        let mut world = World::new(&encodings);
        world.run(usize::MAX);
        world.lose_server(false);
        let said = world.run(cut);
        world.lose_server(false);
        world.guest.paint(11);
        world.run(usize::MAX);
        world.assert_shown(&format!("cut at {cut} of the second server"));
        if said < cut {
            return;
        }
    }
    panic!("it says less than that");
}

#[test]
fn a_viewer_is_told_that_the_screen_has_another_size() {
    for (encodings, understands) in [(&[7, -223][..], true), (&[7], false)] {
        let mut world = World::new(encodings);
        world.run(usize::MAX);
        world.guest = Guest::new(24, 3);
        world.guest.paint(1);
        world.lose_server(true);
        world.run(usize::MAX);
        if understands {
            world.assert_shown("smaller");
        } else {
            assert_eq!(world.splice.failure(), Some(&Failure::Size(24, 3)));
        }
    }
}

#[test]
fn inputs_are_taken_once_where_the_server_says_so_and_again_where_it_does_not() {
    for (acknowledges, again) in [(true, &[][..]), (false, &[&KEY_A[..], &KEY_A_UP, &CLICK][..])] {
        let mut world = World::new(&[0]);
        world.run(usize::MAX);
        world.acknowledges = acknowledges;
        for input in [&KEY_A[..], &KEY_A_UP, &CLICK, &CLICK[..3]] {
            world.says(input);
        }
        world.run(usize::MAX);
        assert_eq!(world.guest.done, [&KEY_A[..], &KEY_A_UP, &CLICK]);
        world.guest.done.clear();
        world.lose_server(false);
        // The rest of what it was just saying, to nobody yet, and more.
        world.says(&CLICK[3..]);
        world.says(&KEY_A);
        world.run(usize::MAX);
        let mut expected: Vec<&[u8]> = again.to_vec();
        if acknowledges {
            // The button is down, and the new server must know.
            expected.push(&CLICK);
        }
        expected.extend([&CLICK[..], &KEY_A]);
        assert_eq!(world.guest.done, expected);
    }
}

#[test]
fn inputs_are_done_once_wherever_the_launcher_has_stopped_to_take_them() {
    let inputs = [&KEY_A[..], &KEY_A_UP, &MOVE, &KEY_A, &KEY_A_UP];
    let length = inputs.concat().len();
    for taken in 0..=length {
        let mut world = World::new(&[0]);
        world.splice.attached(Some(0));
        world.run(usize::MAX);
        let begun = world.given;
        world.says(&inputs.concat());
        // All is sent and acknowledged: it is in the launcher's socket, of which QEMU gets so much.
        let sent = std::iter::from_fn(|| world.splice.take_for_server()).flatten().collect::<Vec<u8>>();
        assert_eq!(sent.len(), length);
        let number = world.splice.take_ack_request().unwrap();
        world.splice.acked(number);
        world.qemu.hear(&sent[..taken], &mut world.guest);
        world.lose_server_behind(false, Some(begun + taken as u64));
        // The next server is lost while it is greeted, with some bytes of it taken.
        world.run(20);
        world.lose_server_behind(false, Some(begun + taken as u64 + 13));
        world.run(usize::MAX);
        assert_eq!(world.guest.done, inputs, "{taken} of {length} bytes were taken");
    }
}

#[test]
fn a_launcher_that_does_not_know_the_session_is_believed_what_was_acknowledged() {
    let mut world = World::new(&[0]);
    world.splice.attached(Some(0));
    world.run(usize::MAX);
    world.says(&KEY_A);
    world.run(usize::MAX);
    world.acknowledges = false;
    world.says(&KEY_A_UP);
    world.run(usize::MAX);
    world.guest.done.clear();
    world.lose_server(false);
    world.run(usize::MAX);
    assert_eq!(world.guest.done, [KEY_A_UP]);
}

#[test]
fn inputs_that_were_never_sent_are_sent_to_the_next_server() {
    let mut world = World::new(&[0]);
    world.run(usize::MAX);
    world.says(&KEY_A);
    world.lose_server(false);
    world.run(usize::MAX);
    assert_eq!(world.guest.done, [KEY_A]);
}

#[test]
fn keys_that_are_held_stay_held_or_are_let_go() {
    // QEMU has let them go where it is the same one; the guest's next one doesn't know that they are down.
    for (moved, expected) in [(false, &[&SHIFT[..]][..]), (true, &[&SHIFT[..], &KEY_A, &KEY_A_UP])] {
        let mut world = World::new(&[0]);
        world.run(usize::MAX);
        world.says(&SHIFT);
        world.says(&KEY_A);
        world.run(usize::MAX);
        world.guest.done.clear();
        world.lose_server(moved);
        world.run(usize::MAX);
        assert_eq!(world.guest.done, expected, "moved: {moved}");
        // Shift is still held, a isn't.
        world.guest.done.clear();
        world.lose_server(moved);
        world.run(usize::MAX);
        assert_eq!(world.guest.done, [SHIFT], "moved: {moved}");
    }
}

#[test]
fn an_order_to_the_machine_is_never_given_twice() {
    let mut world = World::new(&[0]);
    world.run(usize::MAX);
    world.says(&[250, 0, 1, 4]);
    assert_eq!(world.splice.take_for_server().as_deref(), Some(&[250, 0, 1, 4][..]));
    world.lose_server(false);
    world.run(usize::MAX);
    assert!(world.guest.done.is_empty());
}

#[test]
fn what_cant_be_followed_is_carried_as_it_comes_and_not_resumed() {
    let mut world = World::new(&[0]);
    world.run(usize::MAX);
    world.says(&[77, 1, 2, 3]);
    assert_eq!(world.splice.take_unfollowed(), Some(Unfollowed::ClientMessage(77)));
    assert_eq!(world.splice.take_unfollowed(), None);
    assert_eq!(world.splice.take_for_server().as_deref(), Some(&[77, 1, 2, 3][..]));
    world.splice.from_client(b"to the server");
    world.splice.from_server(b"to the viewer");
    assert_eq!(world.splice.take_for_server().as_deref(), Some(&b"to the server"[..]));
    assert_eq!(world.splice.take_for_client().as_deref(), Some(&b"to the viewer"[..]));
    assert!(!world.splice.server_lost(false));

    // Behind a cut, what isn't understood can't be carried: the viewer's zlib streams are of another server.
    let mut world = World::new(&[7]);
    world.run(usize::MAX);
    world.lose_server(false);
    world.on_the_way.clear();
    world.splice.from_server(b"RFB 003.008\n\x01\x01\0\0\0\0\0\x14\0\x06");
    world.splice.from_server(&super::messages::TRUE_COLOUR);
    world.splice.from_server(b"\0\0\0\x02vm\x63");
    let failure = Failure::Unfollowed(Unfollowed::ServerMessage(0x63));
    assert_eq!(world.splice.failure(), Some(&failure));
}

#[test]
fn a_format_that_changes_under_pixels_on_their_way_isnt_followed() {
    let deep = [&[0, 0, 0, 0, 16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0][..], &[0; 3]].concat();
    let mut world = World::new(&[0]);
    world.run(usize::MAX);
    // It has asked for more, and may get it in either format.
    world.says(&deep);
    assert_eq!(world.splice.take_unfollowed(), Some(Unfollowed::FormatInFlight));
    assert_eq!(world.splice.take_for_server(), Some(deep));
}

#[test]
fn a_message_that_is_too_long_is_passed_on_and_cant_be_resumed() {
    let mut world = World::new(&[0]);
    world.splice = Splice::keeping(64);
    world.viewer.patient = true;
    let all = world.run(usize::MAX);
    world.assert_shown("in parts");
    assert!(world.splice.server_lost(false));
    let mut world = World::new(&[0]);
    world.splice = Splice::keeping(64);
    world.viewer.patient = true;
    world.run(all - 20);
    assert!(!world.splice.server_lost(false));
}

#[test]
fn a_viewer_isnt_listened_to_without_end() {
    let mut splice = Splice::new();
    let mut said = 0;
    splice.from_client(b"RFB 003.008\n\x01\x01");
    while splice.wants_client() {
        splice.from_client(&KEY_A.repeat(100));
        said += 800;
    }
    assert!((64 * 1024..66 * 1024).contains(&said));
}
