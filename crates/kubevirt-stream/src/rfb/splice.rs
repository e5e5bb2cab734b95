//! A viewer's connection that outlives its servers.

use std::collections::VecDeque;

use super::client::{ClientMessages, QEMU, QEMU_AUDIO, SET_ENCODINGS, SET_PIXEL_FORMAT, UPDATE_REQUEST};
use super::encoding::{DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE, carried};
use super::format::PixelFormat;
use super::handshake::{Greeting, Joining, ServerInit};
use super::input::{Input, is_input};
use super::server::{Facts, Said, ServerMessages, UPDATE, WHOLE_LIMIT};
use super::{Unfollowed, i32_at, u16_at};

/// A viewer isn't listened to while so much of what it said waits for a server.
const WAITING_LIMIT: usize = 64 * 1024;
/// What one message of a websocket carries at most.
const CHUNK: usize = 64 * 1024;

/// Why a viewer's connection can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The viewer speaks something else.
    #[error("the viewer's handshake: {0}")]
    Viewer(String),
    /// The server gives no screen.
    #[error("no screen: {0}")]
    Server(String),
    /// The stream can't be followed, and what follows means nothing to a viewer that knew the server before.
    #[error("the screen can't be resumed: {0}")]
    Unfollowed(#[from] Unfollowed),
    /// The screen has another size than before.
    #[error("the screen is {0} x {1} now, and the viewer can't be told")]
    Size(u16, u16),
}

/// What the viewer has chosen, for servers to come.
#[derive(Debug, Default)]
struct Choices {
    /// How it reads pixels. The server's own format until it says otherwise.
    format: Option<PixelFormat>,
    encodings: Option<Vec<i32>>,
    /// It has asked for the screen at least once.
    asked: bool,
    /// It has asked since it last had something to see.
    awaiting: bool,
    /// The size that it knows.
    size: (u16, u16),
    audio_format: Option<Vec<u8>>,
    audio: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Server {
    /// Shakes hands; what it has said, and that wasn't understood yet.
    Joining(Joining, Vec<u8>),
    Joined(ServerMessages),
    /// Carried without a look.
    Plain,
}

/// Between a viewer and the server that it has just now.
///
/// A message reaches the viewer whole or not at all, as long as it is at most 32 MiB; what is longer is passed on as it
/// comes, and the viewer can't be moved in the middle of it. That, one message of a websocket and half a MiB of the viewer's
/// are the most that is kept.
#[derive(Debug)]
pub struct Splice {
    greeting: Greeting,
    /// The viewer's part of the handshake, as far as it isn't understood yet.
    greeted: Vec<u8>,
    client: ClientMessages,
    server: Server,
    /// Since the last server that was joined, the guest has gone to another QEMU.
    moved: bool,
    /// The server's screen, while the viewer hasn't been told.
    init: Option<ServerInit>,
    introduced: bool,
    choices: Choices,
    input: Input,
    to_client: VecDeque<Vec<u8>>,
    /// How much of the first of them the viewer has.
    given: usize,
    to_server: VecDeque<Vec<u8>>,
    /// Messages that were sent to servers.
    sent: u64,
    /// How many bytes the launcher will have counted of this session when it has taken all that was sent; none if it doesn't count.
    position: Option<u64>,
    /// Up to where an acknowledgement was asked for.
    ack_asked: Option<u64>,
    unfollowed: Option<Unfollowed>,
    failure: Option<Failure>,
    whole_limit: usize,
}

impl Default for Splice {
    fn default() -> Self {
        Self::new()
    }
}

impl Splice {
    /// A viewer and a server that have just connected.
    pub fn new() -> Self {
        Self::keeping(WHOLE_LIMIT)
    }

    /// With another limit of what is kept.
    pub(super) fn keeping(whole_limit: usize) -> Self {
        let (greeting, hello) = Greeting::begin();
        Self {
            greeting,
            greeted: Vec::new(),
            client: ClientMessages::default(),
            server: Server::Joining(Joining::Version, Vec::new()),
            moved: false,
            init: None,
            introduced: false,
            choices: Choices::default(),
            input: Input::default(),
            to_client: VecDeque::from([hello]),
            given: 0,
            to_server: VecDeque::new(),
            sent: 0,
            position: None,
            ack_asked: None,
            unfollowed: None,
            failure: None,
            whole_limit,
        }
    }

    /// Why it can't go on.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Why the stream isn't followed any more, told once.
    pub fn take_unfollowed(&mut self) -> Option<Unfollowed> {
        self.unfollowed.take()
    }

    /// Whether the handshake with the server is over.
    pub fn is_joined(&self) -> bool {
        !matches!(self.server, Server::Joining(..))
    }

    /// Whether there is room for what the viewer says.
    pub fn wants_client(&self) -> bool {
        let waiting: usize = self.to_server.iter().map(Vec::len).sum();
        waiting + self.client.len() + self.greeted.len() < WAITING_LIMIT
            // A message that has begun must be read to its end, or it never leaves.
            || (self.to_server.is_empty() && self.is_joined())
    }

    /// Whether there is room for what the server says.
    pub fn wants_server(&self) -> bool {
        self.to_client.is_empty()
    }

    /// The next bytes for the viewer.
    pub fn take_for_client(&mut self) -> Option<Vec<u8>> {
        let next = self.to_client.front()?;
        if self.given == 0 && next.len() <= CHUNK {
            return self.to_client.pop_front();
        }
        let end = next.len().min(self.given + CHUNK);
        let chunk = next[self.given..end].to_vec();
        self.given = end;
        if end == next.len() {
            self.to_client.pop_front();
            self.given = 0;
        }
        Some(chunk)
    }

    /// The next bytes for the server: a message.
    pub fn take_for_server(&mut self) -> Option<Vec<u8>> {
        let message = self.to_server.pop_front()?;
        self.sent += 1;
        self.position = self.position.map(|position| position + message.len() as u64);
        if matches!(self.server, Server::Joined(_)) && is_input(&message) {
            self.input.sent(self.sent, self.position, message.clone());
        }
        Some(message)
    }

    /// A number that the server should acknowledge once it has all that was taken for it so far: there are inputs that
    /// it may not have. Once at a time.
    pub fn take_ack_request(&mut self) -> Option<u64> {
        // A server that is still greeted has none of what the one before didn't acknowledge.
        let joined = matches!(self.server, Server::Joined(_));
        if !joined || !self.to_server.is_empty() || self.ack_asked.is_some() || !self.input.is_unacked() {
            return None;
        }
        self.ack_asked = Some(self.sent);
        self.ack_asked
    }

    /// The server has acknowledged a number.
    pub fn acked(&mut self, number: u64) {
        if self.ack_asked == Some(number) {
            self.ack_asked = None;
            self.input.acked(number);
        }
    }

    /// A server is there, and nothing was sent to it. `received` is how many bytes of this session its launcher has taken before, if
    /// it counts: all of them are with QEMU, and no others.
    pub fn attached(&mut self, received: Option<u64>) {
        self.input.received(received);
        self.position = received;
    }

    /// The server is lost; what it says from now on is said by another. `moved` where the guest is in another QEMU.
    /// False where the viewer can't be given another server.
    #[must_use]
    pub fn server_lost(&mut self, moved: bool) -> bool {
        let followed = match &self.server {
            Server::Joining(..) => true,
            Server::Joined(messages) => !messages.is_parted(),
            Server::Plain => false,
        };
        self.server = Server::Joining(Joining::Version, Vec::new());
        self.init = None;
        self.ack_asked = None;
        self.moved |= moved;
        // Never sent: what was chosen is said anew, what was done is not forgotten.
        for message in std::mem::take(&mut self.to_server) {
            if followed && self.introduced && is_input(&message) {
                self.input.unsent(message);
            }
        }
        followed && self.failure.is_none()
    }

    /// The viewer has said something.
    pub fn from_client(&mut self, bytes: &[u8]) {
        if matches!(self.server, Server::Plain) {
            give(&mut self.to_server, bytes.to_vec());
            return;
        }
        if matches!(self.greeting, Greeting::Done) {
            self.client.push(bytes);
        } else {
            self.greeted.extend_from_slice(bytes);
            let mut answer = Vec::new();
            if let Err(why) = self.greeting.take(&mut self.greeted, &mut answer) {
                self.failure = Some(Failure::Viewer(why));
                return;
            }
            give(&mut self.to_client, answer);
            if matches!(self.greeting, Greeting::Done) {
                self.client.push(&std::mem::take(&mut self.greeted));
                self.introduce();
            }
        }
        self.pass_on();
    }

    /// The server has said something.
    pub fn from_server(&mut self, bytes: &[u8]) {
        match &mut self.server {
            Server::Plain => give(&mut self.to_client, bytes.to_vec()),
            Server::Joined(messages) => {
                messages.push(bytes);
                self.follow();
            }
            Server::Joining(joining, said) => {
                said.extend_from_slice(bytes);
                let mut answer = Vec::new();
                let init = joining.take(said, &mut answer);
                give(&mut self.to_server, answer);
                match init {
                    Ok(None) => {}
                    Ok(Some(init)) => {
                        let rest = std::mem::take(said);
                        self.join(init, &rest);
                    }
                    Err(why) => self.failure = Some(Failure::Server(why)),
                }
            }
        }
    }

    /// A server's handshake is over.
    fn join(&mut self, init: ServerInit, rest: &[u8]) {
        let format = self.choices.format.unwrap_or(init.format);
        let layout = match format.layout() {
            Ok(layout) => layout,
            Err(why) => {
                self.failure = Some(why.into());
                return;
            }
        };
        self.server = Server::Joined(ServerMessages::new(layout, self.introduced, self.whole_limit));
        if self.introduced {
            if !self.tell_size(init.size) {
                self.failure = Some(Failure::Size(init.size.0, init.size.1));
                return;
            }
            self.resume(format);
        } else {
            self.init = Some(init);
            self.introduce();
        }
        self.pass_on();
        self.from_server(rest);
    }

    /// Tells the viewer of the screen when both handshakes are over.
    fn introduce(&mut self) {
        if !matches!(self.greeting, Greeting::Done) {
            return;
        }
        if let Some(init) = self.init.take() {
            self.choices.format = Some(init.format);
            self.choices.size = init.size;
            self.introduced = true;
            self.to_client.push_back(init.bytes());
        }
    }

    /// Tells the viewer that the screen has another size, if it has.
    fn tell_size(&mut self, size: (u16, u16)) -> bool {
        if size == self.choices.size {
            return true;
        }
        self.choices.size = size;
        let understands =
            |encoding| self.choices.encodings.as_ref().is_some_and(|known| known.contains(&encoding));
        let numbers = |numbers: &[u16]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_be_bytes()).collect() };
        let mut update = vec![UPDATE, 0, 0, 1];
        update.extend(numbers(&[0, 0, size.0, size.1]));
        if understands(DESKTOP_SIZE) {
            update.extend(DESKTOP_SIZE.to_be_bytes());
        } else if understands(EXTENDED_DESKTOP_SIZE) {
            update.extend(EXTENDED_DESKTOP_SIZE.to_be_bytes());
            // One screen, of number 0, at 0, 0, without flags.
            update.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            update.extend(numbers(&[size.0, size.1, 0, 0]));
        } else {
            return false;
        }
        self.to_client.push_back(update);
        true
    }

    /// Says to a new server what the one before knew.
    fn resume(&mut self, format: PixelFormat) {
        let mut message = vec![SET_PIXEL_FORMAT, 0, 0, 0];
        message.extend(format.0);
        self.to_server.push_back(message);
        self.to_server.extend(self.choices.encodings.as_deref().map(set_encodings));
        self.to_server.extend(self.choices.audio_format.clone());
        self.to_server.extend(self.choices.audio.clone());
        if self.choices.asked {
            // Also for a viewer that isn't waiting: what has changed since is in no later answer to it.
            let (width, height) = self.choices.size;
            let mut request = vec![UPDATE_REQUEST, 0, 0, 0, 0, 0];
            request.extend(width.to_be_bytes());
            request.extend(height.to_be_bytes());
            self.to_server.push_back(request);
            self.choices.awaiting = true;
        }
        self.to_server.extend(self.input.again(std::mem::take(&mut self.moved)));
    }

    /// Passes on what the viewer has said, once it has somebody to say it to.
    fn pass_on(&mut self) {
        while let Server::Joined(messages) = &mut self.server
            && self.introduced
        {
            let message = match self.client.next() {
                Ok(None) => return,
                Ok(Some(message)) => message,
                Err(why) => return self.unfollow(why),
            };
            match choose(&message, &mut self.choices, messages) {
                Ok(instead) => self.to_server.push_back(instead.unwrap_or(message)),
                Err(why) => {
                    self.to_server.push_back(message);
                    self.unfollow(why);
                }
            }
        }
    }

    /// Gives the viewer what the server has said.
    fn follow(&mut self) {
        while let Server::Joined(messages) = &mut self.server {
            match messages.next() {
                Ok(None) => return,
                Ok(Some(Said::Part(bytes))) => self.to_client.push_back(bytes),
                Ok(Some(Said::Whole(bytes, facts))) => {
                    self.to_client.push_back(bytes);
                    self.learn(&facts);
                }
                Err(why) => self.unfollow(why),
            }
        }
    }

    fn learn(&mut self, facts: &Facts) {
        self.choices.size = facts.size.unwrap_or(self.choices.size);
        self.choices.format = facts.format.or(self.choices.format);
        self.choices.awaiting &= !facts.picture;
    }

    /// Carries the rest as it comes.
    fn unfollow(&mut self, why: Unfollowed) {
        if let Server::Joined(messages) = &mut self.server {
            if !messages.is_plain() {
                self.failure = Some(why.into());
                self.server = Server::Plain;
                return;
            }
            give(&mut self.to_client, messages.take_rest());
        }
        give(&mut self.to_server, self.client.take_rest());
        self.server = Server::Plain;
        self.unfollowed = Some(why);
    }
}

fn give(queue: &mut VecDeque<Vec<u8>>, bytes: Vec<u8>) {
    if !bytes.is_empty() {
        queue.push_back(bytes);
    }
}

fn set_encodings(encodings: &[i32]) -> Vec<u8> {
    let mut message = vec![SET_ENCODINGS, 0];
    message.extend((encodings.len() as u16).to_be_bytes());
    message.extend(encodings.iter().flat_map(|encoding| encoding.to_be_bytes()));
    message
}

/// Notes what a viewer's message chooses, and returns what the server is told instead of it, if anything.
fn choose(
    message: &[u8],
    choices: &mut Choices,
    messages: &mut ServerMessages,
) -> Result<Option<Vec<u8>>, Unfollowed> {
    match message[0] {
        SET_PIXEL_FORMAT => {
            let format = PixelFormat::at(&message[4..]);
            let layout = format.layout()?;
            let before = choices.format.map(PixelFormat::layout).transpose()?;
            if choices.awaiting && before != Some(layout) {
                return Err(Unfollowed::FormatInFlight);
            }
            choices.format = Some(format);
            messages.set_layout(layout);
        }
        SET_ENCODINGS => {
            let count = usize::from(u16_at(message, 2));
            let encodings = carried((0..count).map(|n| i32_at(message, 4 + 4 * n)));
            let instead = set_encodings(&encodings);
            choices.encodings = Some(encodings);
            return Ok(Some(instead));
        }
        UPDATE_REQUEST => {
            choices.asked = true;
            choices.awaiting = true;
        }
        QEMU if message[1] == QEMU_AUDIO => match u16_at(message, 2) {
            0 => choices.audio = Some(message.to_vec()),
            1 => choices.audio = None,
            _ => choices.audio_format = Some(message.to_vec()),
        },
        _ => {}
    }
    Ok(None)
}
