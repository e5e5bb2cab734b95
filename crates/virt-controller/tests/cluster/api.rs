//! An API server in memory, as far as virt-controller asks one: get, list, create, merge patches with
//! a resourceVersion, status subresources, deletes with a uid, finalizers. It can lose a write's
//! request or its answer, as a process that dies does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

/// Which write is lost, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    Never,
    /// The n-th write never arrives.
    Before(usize),
    /// The n-th write is done and nobody hears of it.
    After(usize),
}

#[derive(Debug, Default)]
pub struct State {
    /// By plural and name; everything is in one namespace.
    pub objects: BTreeMap<(String, String), Value>,
    version: u64,
    uid: u64,
    pub writes: usize,
    pub crash: Option<Crash>,
    /// Every create and delete that was done, in order.
    pub log: Vec<String>,
}

/// The server. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Api {
    state: Arc<Mutex<State>>,
}

type Answer = (StatusCode, Value);

fn refuse(code: StatusCode, reason: &str) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
        "reason": reason, "message": reason,
    });
    (code, body)
}

impl Api {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A client of this server.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, body) = api.answer(&parts.method, &parts.uri, &body)?;
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                Ok::<_, std::io::Error>(Response::builder().status(code).body(body).unwrap())
            }
        });
        kube::Client::new(service, "ns")
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: &Value) -> Result<Answer, std::io::Error> {
        let mut state = self.lock();
        if uri.path().contains("/events") {
            return Ok((StatusCode::CREATED, body.clone()));
        }
        // Everything is in namespace ns; migrations are listed in all.
        let in_ns = uri.path().split_once("/namespaces/ns/").or_else(|| uri.path().split_once("/v1/"));
        let (_, rest) = in_ns.expect("a path of a namespace, or of all");
        let mut segments = rest.split('/').map(str::to_owned);
        let plural = segments.next().unwrap();
        let name = segments.next();
        let status = segments.next().is_some();
        let Some(name) = name else {
            return match *method {
                Method::GET => Ok(state.list(&plural, uri.query().unwrap_or_default())),
                _ => state.write(|state| state.create(&plural, body.clone())),
            };
        };
        let key = (plural, name);
        match *method {
            Method::GET => Ok(match state.objects.get(&key) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => refuse(StatusCode::NOT_FOUND, "NotFound"),
            }),
            Method::PATCH => state.write(|state| state.patch(&key, body, status)),
            Method::DELETE => state.write(|state| state.delete(&key, body)),
            _ => panic!("nobody asks for {method} {uri}"),
        }
    }
}

impl State {
    fn write(&mut self, write: impl FnOnce(&mut Self) -> Answer) -> Result<Answer, std::io::Error> {
        let number = self.writes;
        self.writes += 1;
        let died = || Err(std::io::Error::other("the process died"));
        match self.crash.unwrap_or(Crash::Never) {
            Crash::Before(n) if n == number => died(),
            Crash::After(n) if n == number => {
                write(self);
                died()
            }
            Crash::Never | Crash::Before(_) | Crash::After(_) => Ok(write(self)),
        }
    }

    fn list(&self, plural: &str, query: &str) -> Answer {
        let wanted = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
        let wanted = wanted.map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let matches = |object: &Value| {
            let Some((label, value)) = wanted.as_ref().and_then(|w| w.split_once('=')) else { return true };
            object["metadata"]["labels"][label] == value
        };
        let items: Vec<_> = self.of(plural).filter(|object| matches(object)).collect();
        (
            StatusCode::OK,
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}),
        )
    }

    /// All objects of a kind.
    pub fn of(&self, plural: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |((kind, _), _)| kind == plural).map(|(_, object)| object)
    }

    pub fn create(&mut self, plural: &str, mut object: Value) -> Answer {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (plural.to_owned(), name);
        if self.objects.contains_key(&key) {
            return refuse(StatusCode::CONFLICT, "AlreadyExists");
        }
        self.uid += 1;
        object["metadata"]["uid"] = json!(format!("uid-{}", self.uid));
        object["metadata"]["namespace"] = json!("ns");
        object["metadata"]["creationTimestamp"] = json!("2026-11-23T00:00:00Z");
        self.log.push(format!("create {plural} {}", key.1));
        self.store(&key, object)
    }

    fn store(&mut self, key: &(String, String), mut object: Value) -> Answer {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let gone = !object["metadata"]["deletionTimestamp"].is_null()
            && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if gone {
            self.objects.remove(key);
            self.log.push(format!("gone {} {}", key.0, key.1));
        } else {
            self.objects.insert(key.clone(), object.clone());
        }
        (StatusCode::OK, object)
    }

    pub fn patch(&mut self, key: &(String, String), patch: &Value, status: bool) -> Answer {
        let Some(mut object) = self.objects.get(key).cloned() else {
            return refuse(StatusCode::NOT_FOUND, "NotFound");
        };
        let precondition = &patch["metadata"]["resourceVersion"];
        if !precondition.is_null() && *precondition != object["metadata"]["resourceVersion"] {
            return refuse(StatusCode::CONFLICT, "Conflict");
        }
        let before = object.clone();
        json_patch::merge(&mut object, patch);
        if status {
            let wanted = object["status"].clone();
            object = before;
            object["status"] = wanted;
        } else {
            object["status"] = before["status"].clone();
        }
        self.store(key, object)
    }

    pub fn delete(&mut self, key: &(String, String), options: &Value) -> Answer {
        let Some(mut object) = self.objects.get(key).cloned() else {
            return refuse(StatusCode::NOT_FOUND, "NotFound");
        };
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return refuse(StatusCode::CONFLICT, "Conflict");
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
            self.log.push(format!("delete {} {}", key.0, key.1));
        }
        self.store(key, object)
    }
}
