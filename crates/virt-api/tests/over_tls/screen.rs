//! A picture of a screen through virt-api, over real TLS: who gets one, and what is said to those who don't.

use crate::world::guest::Guest;
use crate::world::handler::Handler;
use crate::world::{HANDLERS, World};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use kubevirt_types::Release;

const BASE: &str = "/apis/subresources.kubevirt.io/v1/namespaces/ns";

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_comes_from_the_node_for_those_who_may() {
    let guest = Guest::new();
    let port = std::net::TcpListener::bind((HANDLERS[0], 0)).unwrap().local_addr().unwrap().port();
    let world = World::start(Release::V0_17_0, port).await;
    let handler = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    let get = async |user, name, query| {
        let path = format!("{BASE}/virtualmachineinstances/{name}/vnc/screenshot{query}");
        let (status, headers, body) = world.ask(user, Method::GET, &path, "").await;
        let kind = headers[CONTENT_TYPE].to_str().unwrap().to_owned();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    };
    for (query, asked) in [("", "false"), ("?moveCursor=true", "true")] {
        let (status, kind, body) = get("jane", "a", query).await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, "image/png"));
        assert_eq!(body, format!("PNG moveCursor={asked}"));
    }
    guest.power_off();
    for (user, name, query, code, words) in [
        ("joe", "a", "", 403, "cannot get resource \\\"virtualmachineinstances/vnc/screenshot\\\""),
        ("jane", "starting", "", 400, "VMI is not running"),
        ("jane", "missing", "", 404, "\\\"missing\\\" not found"),
        ("jane", "a", "?moveCursor=maybe", 400, "moveCursor"),
        ("jane", "a", "", 503, "no screenshot: can't connect to the launcher: try again"),
    ] {
        let (status, kind, body) = get(user, name, query).await;
        assert_eq!((status.as_u16(), kind.as_str()), (code, "application/json"), "{body}");
        assert!(body.contains(words), "{body}");
    }
    handler.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_begins_paused_only_where_every_controller_knows_how() {
    let path = format!("{BASE}/virtualmachines/a/start");
    for (own, words) in [
        (Release::V0_17_0, "paused: startStrategy"),
        (Release::V0_18_0, "paused: startStrategy is new in v0.18.0 and the version gate is closed"),
    ] {
        let world = World::start(own.clone(), 1).await;
        let (status, _, body) = world.ask("jane", Method::PUT, &path, r#"{"paused": true}"#).await;
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(status, StatusCode::FORBIDDEN, "{own}: {body}");
        assert!(body.contains(words), "{own}: {body}");
        let (status, _, _) = world.ask("jane", Method::PUT, &path, "{}").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "without the option the VM itself is looked for");
    }
}
