//! The base of a server's addresses.

use hyper::Uri;

/// A server's address without `/v1`: routes such as `/v1/models` and `/tokenize` follow it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Base {
    root: String,
    /// Between the root and `models`, `completions` and so on; `/v1` but for providers that have another.
    version: &'static str,
}

impl Base {
    /// Reads an address with or without `/v1` at its end.
    pub(crate) fn parse(url: &str) -> Result<Base, String> {
        let text = url.trim();
        if !text.starts_with("http://") && !text.starts_with("https://") {
            let shown = text.split('@').next_back().unwrap_or_default();
            return Err(format!("`url` must begin with http:// or https://, found {shown}"));
        }
        let uri: Uri = text.parse().map_err(|error| format!("`url` must be an address: {error}"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err("`url` must not hold a name or password\n  help: put the key into a variable and write `key: VARIABLE`".into());
        }
        if uri.query().is_some() {
            return Err(
                "`url` must not have a `?` part: it is the beginning of the addresses of all routes".into()
            );
        }
        let root = text.trim_end_matches('/');
        Ok(Base { root: root.strip_suffix("/v1").unwrap_or(root).to_owned(), version: "/v1" })
    }

    /// The same for a provider that has its routes right at the address.
    pub(crate) fn without_version(&self) -> Base {
        Base { version: "", ..self.clone() }
    }

    /// The address of an OpenAI route, such as `/models`.
    pub(crate) fn api(&self, route: &str) -> String {
        format!("{}{}{route}", self.root, self.version)
    }

    /// The address of a route of the server's own, such as `/tokenize`.
    pub(crate) fn own(&self, route: &str) -> String {
        format!("{}{route}", self.root)
    }

    /// Whether the server is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        let host = self.root.parse::<Uri>().ok().and_then(|uri| Some(uri.host()?.to_owned()));
        let host = host.unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Whether the server is OpenAI's own, which has other names for some fields.
    pub(crate) fn is_openai(&self) -> bool {
        self.root.starts_with("https://api.openai.com")
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_with_and_without_v1() {
        for url in [
            "http://127.0.0.1:8000",
            "http://127.0.0.1:8000/",
            "http://127.0.0.1:8000/v1",
            "http://127.0.0.1:8000/v1/",
        ] {
            let base = Base::parse(url).unwrap();
            assert_eq!(base.api("/models"), "http://127.0.0.1:8000/v1/models");
            assert_eq!(base.own("/tokenize"), "http://127.0.0.1:8000/tokenize");
            assert!(base.is_local());
        }
        assert!(!Base::parse("https://example.com/api/v1").unwrap().is_local());
        assert!(Base::parse("http://[::1]:80").unwrap().is_local());
        assert!(
            Base::parse("http://me:secret@host/").unwrap_err().contains("must not hold a name or password")
        );
        assert!(Base::parse("http://").is_err());
    }
}
