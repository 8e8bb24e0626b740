//! A client: one call, and one whose answer is a stream.

use std::error::Error;
use std::time::Duration;

use hyper_util::client::legacy;
use netpoll::Dialer;
use netpoll::futures::block_on;
use netpoll::tls::{TlsClient, TlsDialer};
use netpoll_hyper::NetpollExecutor;
use netpoll_hyper::client::Connector;
use tonic::body::Body;

use crate::ROOT;
use crate::hello::Name;
use crate::hello::greeter_client::GreeterClient;

pub(crate) fn call(address: &str) -> Result<(), Box<dyn Error>> {
    let tls = TlsClient::builder().alpn(["h2"]).roots(ROOT).build()?;
    let timeout = Duration::from_secs(5);
    let plain = Dialer::builder().timeout(timeout).build()?;
    let dialer = Dialer::builder().timeout(timeout).tls(tls).build()?;
    let connector = Connector::new(plain).https(dialer, true);
    let client: legacy::Client<Connector, Body> =
        legacy::Client::builder(NetpollExecutor).http2_only(true).build(connector);
    let mut greeter = GreeterClient::with_origin(client, format!("https://{address}").parse()?);
    block_on(async {
        let answer = greeter.hello(Name { name: "netpoll".into() }).await?;
        println!("{}", answer.into_inner().text);
        let mut counted = greeter.count(Name { name: "again".into() }).await?.into_inner();
        while let Some(greeting) = counted.message().await? {
            println!("{}", greeting.text);
        }
        Ok(())
    })
}
