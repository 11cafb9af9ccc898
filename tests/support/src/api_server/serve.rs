//! Connections to the API server: TLS, HTTP, and the responses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Shared;
use super::question::Question;
use super::refusal::Refusal;
use super::watching::{self, Cut, Said};
use crate::certificates::Authority;

/// The longest body of a request, in bytes.
const LONGEST: usize = 1 << 20;

/// The certificate that the server presents.
pub(super) fn tls(authority: &Authority, address: IpAddr) -> TlsAcceptor {
    let tomorrow = SystemTime::now() + Duration::from_hours(24);
    let issued = authority.issue(&[address.to_string()], tomorrow);
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.expect("the certificate is PEM")],
            key.expect("the certificate is PEM"),
        );
    TlsAcceptor::from(Arc::new(
        config.expect("the key belongs to the certificate"),
    ))
}

/// Accepts connections while it is open, until told to end.
pub(super) async fn run(
    listener: TcpListener,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    mut ended: watch::Receiver<bool>,
) {
    let mut listener = Some(listener);
    let mut open = shared.is_open.subscribe();
    loop {
        let is_open = *open.borrow_and_update();
        if !is_open {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(shared.address).await.ok();
        }
        shared.listens.send_replace(listener.is_some());
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            _ = open.changed() => {}
            accepted = accept => {
                if let Ok((stream, _)) = accepted {
                    // Subscribes before the task starts, so that no cut is missed.
                    let cuts = shared.cuts.subscribe();
                    tokio::spawn(connection(stream, tls.clone(), Arc::clone(&shared), cuts));
                }
            }
        }
    }
}

/// Serves one connection until it ends or is cut.
async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    mut cuts: watch::Receiver<u64>,
) {
    let served = async {
        let Ok(stream) = tls.accept(stream).await else {
            return;
        };
        let service = service_fn(|request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Cut>(answer(&shared, request).await) }
        });
        // Either the client ended the connection, or it was cut.
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    };
    tokio::select! {
        () = served => {}
        _ = cuts.changed() => {}
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Said> {
    if shared.faults().is_silent {
        std::future::pending::<()>().await;
    }
    let answered = respond(shared, request).await;
    let (code, said) = match answered {
        Ok((code, said)) => (code, said),
        Err(refusal) => (refusal.code, Said::whole(&refusal.body())),
    };
    Response::builder()
        .status(code)
        .header(CONTENT_TYPE, "application/json")
        .body(said)
        .expect("the status is valid")
}

async fn respond(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<(u16, Said), Refusal> {
    let (head, body) = request.into_parts();
    let header = |name: HeaderName| head.headers.get(name)?.to_str().ok();
    let query = head.uri.query().unwrap_or_default();
    let question = Question::new(&head.method, head.uri.path(), query)?;
    shared.world().admit(&question, header(AUTHORIZATION))?;
    if let Some(code) = shared.faults().refuse {
        return Err(Refusal::new(code, "etcdserver: request timed out"));
    }
    let media = match question.verb {
        "list" => return Ok((200, Said::whole(&shared.world().list(&question)))),
        "watch" => return Ok((200, watching::watch(shared, question)?)),
        "create" => "application/json",
        _ => "application/merge-patch+json",
    };
    if header(CONTENT_TYPE) != Some(media) {
        return Err(Refusal::new(415, format!("send {media}")));
    }
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map_err(|error| Refusal::new(400, error.to_string()))?;
    let body: Value = serde_json::from_slice(&body.to_bytes())
        .map_err(|error| Refusal::new(400, error.to_string()))?;
    let mut world = shared.world();
    match &question.name {
        None => Ok((201, Said::whole(&world.post(body)?))),
        Some(name) => Ok((200, Said::whole(&world.patch(name, &body)?))),
    }
}
