//! One device plugin as the kubelet calls it. Never decides anything; says when it is dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::unfold;
use handler_launcher_com::deviceplugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use handler_launcher_com::deviceplugin::{
    AllocateRequest, AllocateResponse, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse,
};
use handler_launcher_com::socket::incoming;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::kind::{DeviceKind, Reason};

/// The service of one device.
#[derive(Debug, Clone)]
pub struct Plugin {
    kind: DeviceKind,
    count: u32,
    usable: watch::Receiver<bool>,
    dropped: mpsc::UnboundedSender<Reason>,
}

/// A watch of the kubelet. Its end is told, whoever ended it.
pub struct Watch {
    devices: Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>,
    dropped: mpsc::UnboundedSender<Reason>,
}

impl Stream for Watch {
    type Item = Result<ListAndWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.devices.as_mut().poll_next(cx)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Nobody listens any more when the process stops; then it doesn't matter.
        drop(self.dropped.send(Reason::Dropped));
    }
}

impl Plugin {
    /// A plugin that offers `count` devices as long as `usable` says so.
    pub fn new(
        kind: DeviceKind,
        count: u32,
        usable: watch::Receiver<bool>,
        dropped: mpsc::UnboundedSender<Reason>,
    ) -> Self {
        Self { kind, count, usable, dropped }
    }

    /// Serves on `listener` until `stop` is cancelled.
    pub async fn serve(self, listener: UnixListener, stop: CancellationToken) {
        let name = self.kind.name;
        let served = tonic::transport::Server::builder()
            .add_service(DevicePluginServer::new(self))
            .serve_with_incoming(incoming(listener));
        tokio::select! {
            ended = served => if let Err(error) = ended {
                tracing::error!(device = name, %error, "the device plugin's server ended");
            },
            () = stop.cancelled() => {}
        }
    }
}

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    type ListAndWatchStream = Watch;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Watch>, Status> {
        let (kind, count) = (self.kind, self.count);
        let mut usable = self.usable.clone();
        usable.mark_changed();
        let devices = unfold(usable, move |mut usable| async move {
            usable.changed().await.ok()?;
            let devices = kind.devices(count, *usable.borrow_and_update());
            Some((Ok(ListAndWatchResponse { devices }), usable))
        });
        Ok(Response::new(Watch { devices: Box::pin(devices), dropped: self.dropped.clone() }))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Ok(Response::new(PreferredAllocationResponse::default()))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        Ok(Response::new(self.kind.allocate(request.get_ref())))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse::default()))
    }
}
