//! Attention (Vaswani et al. 2017) within each sample of a packed batch, and of new rows over those that
//! came before.
//!
//! Shapes: t rows of the packed batch, b samples, l length, n heads of queries, m heads of keys and
//! values, d width of a head.

use super::layout::Layout;
use super::{Context, Error};
use tch::{Device, Kind, Tensor};

/// The heads of a layer's attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Heads n of queries.
    pub(super) queries: i64,
    /// Heads m of keys and values, each for n/m heads of queries (Ainslie et al. 2023, arXiv
    /// 2305.13245).
    pub(super) keys: i64,
    /// Width d of each.
    pub(super) width: i64,
    /// A row sees itself and those before it alone.
    pub(super) causal: bool,
    /// Dropout rate of the probabilities.
    pub(super) dropout: f64,
}

impl Heads {
    /// Attention within each sample, [t, n·d] from queries [t, n·d], keys and values [t, m·d]: samples of
    /// one length at a time, so there is no padding to mask. Keys and values `prefix` [p, m·d] stand before
    /// those of every sample and are seen by all of its rows.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub(super) fn attend(
        &self,
        qkv: [&Tensor; 3],
        prefix: Option<[&Tensor; 2]>,
        layout: &Layout,
        (ctx, site): (&Context, u64),
    ) -> Result<Tensor, Error> {
        let (n, d) = (self.queries, self.width);
        let dropout_keys = if ctx.train && self.dropout > 0.0 {
            layout.attention_keys(n)
        } else {
            Vec::new()
        };
        let [q_parts, k_parts, v_parts] = qkv.map(|x| layout.split(x));
        let (q_parts, k_parts, v_parts) = (q_parts?, k_parts?, v_parts?);
        let mut outputs = Vec::with_capacity(layout.groups.len());
        for (place, group) in layout.groups.iter().enumerate() {
            let (b, l) = (group.samples, group.length);
            let by_head = |x: &Tensor, heads: i64| x.f_view([b, l, heads, d])?.f_transpose(1, 2);
            let q = by_head(&q_parts[place], n)?;
            let mut k = by_head(&k_parts[place], self.keys)?;
            let mut v = by_head(&v_parts[place], self.keys)?;
            if let Some([keys, values]) = prefix {
                (k, v) = (self.behind(keys, &k)?, self.behind(values, &v)?);
            }
            let (k, v) = (self.shared(k)?, self.shared(v)?);
            let seen = k.size()[2];
            let y_bnld = if let Some(keys) = dropout_keys.get(place) {
                let mut scores_bnll = q
                    .f_matmul(&k.f_transpose(-2, -1)?)?
                    .f_mul_scalar(1.0 / (d as f64).sqrt())?;
                if self.causal {
                    let hidden = before(l, seen, q.device())?.f_logical_not()?;
                    scores_bnll = scores_bnll.f_masked_fill(&hidden, f64::NEG_INFINITY)?;
                }
                let probs_bnll = scores_bnll.f_softmax(-1, Kind::Float)?;
                ctx.dropout(probs_bnll, keys, site, self.dropout)?
                    .f_matmul(&v)?
            } else {
                // Without a mask the first row would see the first key alone, which may be a prefix's.
                let needs_mask = self.causal && seen > l;
                let mask = needs_mask.then(|| before(l, seen, q.device()));
                let (mask, causal) = (mask.transpose()?, self.causal && !needs_mask);
                let mask = mask.as_ref();
                Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, 0.0, causal, None, false)?
            };
            outputs.push(y_bnld.f_transpose(1, 2)?.f_reshape([b * l, n * d])?);
        }
        Ok(Tensor::f_cat(&outputs, 0)?)
    }

    /// Keys or values [b, m, l, d] with learned ones [p, m·d] before them, [b, m, p + l, d].
    fn behind(&self, prefix: &Tensor, x: &Tensor) -> Result<Tensor, Error> {
        let (p, b) = (prefix.size()[0], x.size()[0]);
        let (m, d) = (self.keys, self.width);
        let own = prefix.f_view([1, p, m, d])?.f_transpose(1, 2)?;
        let own = own.f_expand([b, m, p, d], false)?;
        Ok(Tensor::f_cat(&[&own, x], 2)?)
    }

    /// Keys or values [b, m, l, d] for every head of queries, [b, n, l, d].
    fn shared(&self, x: Tensor) -> Result<Tensor, Error> {
        let (n, m) = (self.queries, self.keys);
        if n == m {
            return Ok(x);
        }
        let size = x.size();
        let (b, l, d) = (size[0], size[2], size[3]);
        let x = x.f_unsqueeze(2)?.f_expand([b, m, n / m, l, d], false)?;
        Ok(x.f_reshape([b, n, l, d])?)
    }
}

/// Which of `t` rows each of the last `l` of them sees: itself and those before, bool [l, t].
fn before(l: i64, t: i64, device: Device) -> Result<Tensor, Error> {
    Ok(Tensor::f_ones([l, t], (Kind::Bool, device))?.f_tril(t - l)?)
}

/// Keys and values of one text's tokens so far, of every layer, so that each further token costs one row.
#[derive(Debug)]
pub struct Cache {
    heads: Heads,
    /// Keys and values [m, limit, d] of every layer.
    layers: Vec<[Tensor; 2]>,
    length: i64,
    limit: i64,
}

impl Cache {
    /// Of no token yet, with room for `limit`.
    pub(super) fn new(
        heads: Heads,
        layers: usize,
        limit: i64,
        device: Device,
    ) -> Result<Self, Error> {
        let room = || Tensor::f_zeros([heads.keys, limit, heads.width], (Kind::Float, device));
        let layers = (0..layers).map(|_| Ok([room()?, room()?]));
        Ok(Self {
            heads,
            layers: layers.collect::<Result<_, Error>>()?,
            length: 0,
            limit,
        })
    }

    /// Puts learned keys and values [p, m·d] of a layer before those of all tokens; all layers have as many.
    pub(super) fn begin(&mut self, layer: usize, prefix: [&Tensor; 2]) -> Result<(), Error> {
        let p = prefix[0].size()[0];
        for (all, own) in self.layers[layer].iter().zip(prefix) {
            let own = own
                .f_detach()?
                .f_view([p, self.heads.keys, self.heads.width])?;
            all.f_narrow(1, 0, p)?.f_copy_(&own.f_transpose(0, 1)?)?;
        }
        self.length = p;
        Ok(())
    }

    /// Keys and values of a layer so far, [length, m·d] each.
    #[cfg(test)]
    pub(super) fn seen(&self, layer: usize) -> [Tensor; 2] {
        let own = self.layers[layer].each_ref();
        own.map(|all| {
            let rows = all.narrow(1, 0, self.length).transpose(0, 1);
            rows.reshape([self.length, -1]).detach()
        })
    }

    /// Tokens so far, virtual ones too.
    #[must_use]
    pub fn length(&self) -> i64 {
        self.length
    }

    /// Checks that there is room for `more` tokens.
    pub(super) fn check(&self, more: usize) -> Result<(), Error> {
        let wanted = self.length + more as i64;
        if more == 0 || wanted > self.limit {
            let limit = self.limit;
            return Err(Error::Input(format!(
                "a text of {wanted} tokens, the model takes 1 to {limit}"
            )));
        }
        Ok(())
    }

    /// Attention of `l` new rows over themselves and all before, [l, n·d] from queries [l, n·d], keys and
    /// values [l, m·d], whose keys and values are kept.
    pub(super) fn attend(&self, layer: usize, qkv: [&Tensor; 3]) -> Result<Tensor, Error> {
        let Heads {
            queries: n,
            keys: m,
            width: d,
            ..
        } = self.heads;
        let [q, k, v] = qkv;
        let l = q.size()[0];
        let t = self.length + l;
        let by_head = |x: &Tensor, heads: i64| x.f_view([l, heads, d])?.f_transpose(0, 1);
        for (all, new) in self.layers[layer].iter().zip([k, v]) {
            all.f_narrow(1, self.length, l)?
                .f_copy_(&by_head(new, m)?)?;
        }
        let seen = |place: usize| -> Result<Tensor, Error> {
            let all: &Tensor = &self.layers[layer][place];
            self.heads.shared(all.f_narrow(1, 0, t)?.f_unsqueeze(0)?)
        };
        let (k, v) = (seen(0)?, seen(1)?);
        let q = by_head(q, n)?.f_unsqueeze(0)?;
        // One row sees everything.
        let mask = (l > 1).then(|| before(l, t, q.device())).transpose()?;
        let y_1nld = Tensor::f_scaled_dot_product_attention(
            &q,
            &k,
            &v,
            mask.as_ref(),
            0.0,
            false,
            None,
            false,
        )?;
        Ok(y_1nld.f_transpose(1, 2)?.f_reshape([l, n * d])?)
    }

    /// Counts rows that every layer has seen.
    pub(super) fn advance(&mut self, rows: usize) {
        self.length += rows as i64;
    }
}
