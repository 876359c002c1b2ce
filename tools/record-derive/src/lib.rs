//! The derive macros of millstream's records.
//!
//! `#[derive(Record)]` on a `#[repr(C)]` struct of plain numbers makes it a fixed-size record; with `#[record(archived)]`, beside
//! rkyv's own derives, an archived one. Both say what they consist of; `#[derive(Schema)]` does only that, for types within records and
//! states. What cannot work is refused with a message that says what to change.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Fields, Result, parse_macro_input};

/// Makes a struct a record. See the crate `millstream`, module `record`.
#[proc_macro_derive(Record, attributes(record))]
pub fn derive_record(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// Lets a struct or enum say what it consists of. See the crate `millstream`, module `record`.
#[proc_macro_derive(Schema)]
pub fn derive_schema(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let expanded = refuse_generics(&input).and_then(|()| schema(&input));
    expanded.unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    refuse_generics(input)?;
    let record = match is_archived(input)? {
        true => archived(input),
        false => fixed(input)?,
    };
    let schema = schema(input)?;
    Ok(quote! { #record #schema })
}

fn refuse_generics(input: &DeriveInput) -> Result<()> {
    if input.generics.params.is_empty() {
        return Ok(());
    }
    let reason = "a record cannot be generic: its layout is written into checkpoints";
    Err(Error::new_spanned(&input.generics, reason))
}

/// What the type consists of: names and types of its fields in their order.
fn schema(input: &DeriveInput) -> Result<TokenStream> {
    let name = &input.ident;
    let text = name.to_string();
    let written = match &input.data {
        Data::Struct(data) => {
            let fields = schema_fields(&data.fields);
            quote! { out.structure(::core::module_path!(), #text, &[#(#fields),*]) }
        }
        Data::Enum(data) => {
            let variants = data.variants.iter().map(|variant| {
                let (text, fields) = (variant.ident.to_string(), schema_fields(&variant.fields));
                quote! { (#text, &[#(#fields),*]) }
            });
            quote! { out.enumeration(::core::module_path!(), #text, &[#(#variants),*]) }
        }
        Data::Union(_) => return Err(Error::new_spanned(name, "a union cannot say what it holds: use an enum")),
    };
    Ok(quote! {
        impl ::millstream::record::Schema for #name {
            fn schema(out: &mut ::millstream::record::SchemaText) {
                #written
            }
        }
    })
}

fn schema_fields(fields: &Fields) -> Vec<TokenStream> {
    let fields = fields.iter().enumerate().map(|(index, field)| {
        let name = field.ident.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
        let of = &field.ty;
        quote! { (#name, <#of as ::millstream::record::Schema>::schema) }
    });
    fields.collect()
}

fn is_archived(input: &DeriveInput) -> Result<bool> {
    let mut archived = false;
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("record")) {
        attribute.parse_nested_meta(|meta| match meta.path.is_ident("archived") {
            true => {
                archived = true;
                Ok(())
            }
            false => Err(meta.error("the only option is `#[record(archived)]`")),
        })?;
    }
    Ok(archived)
}

fn fixed(input: &DeriveInput) -> Result<TokenStream> {
    let name = &input.ident;
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            name,
            "a fixed-size record is a struct (an enum has invalid bit patterns): use `#[record(archived)]` with rkyv's derives",
        ));
    };
    if !has_repr_c(input)? {
        return Err(Error::new(
            Span::call_site(),
            format!("`{name}` needs `#[repr(C)]`: the layout of a fixed-size record is part of every checkpoint"),
        ));
    }
    let types: Vec<_> = match &data.fields {
        Fields::Named(fields) => fields.named.iter().map(|field| &field.ty).collect(),
        Fields::Unnamed(fields) => fields.unnamed.iter().map(|field| &field.ty).collect(),
        Fields::Unit => Vec::new(),
    };
    let padding = format!(
        "`{name}` has padding bytes: order its fields from the largest to the smallest, or fill the gap with a `_pad: [u8; N]` field"
    );
    Ok(quote! {
        const _: () = {
            #(::millstream::record::assert_fixed_field::<#types>();)*
            assert!(::core::mem::size_of::<#name>() == 0 #(+ ::core::mem::size_of::<#types>())*, #padding);
        };

        // SAFETY: `repr(C)`, every field is plain old data, and the sum of the fields is the size of the struct, so there is no padding.
        #[allow(unsafe_code)]
        unsafe impl ::millstream::bytemuck::Zeroable for #name {}
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe impl ::millstream::bytemuck::Pod for #name {}
    })
}

fn has_repr_c(input: &DeriveInput) -> Result<bool> {
    let mut found = false;
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            found |= meta.path.is_ident("C");
            Ok(())
        })?;
    }
    Ok(found)
}

fn archived(input: &DeriveInput) -> TokenStream {
    let name = &input.ident;
    let view = format_ident!("Archived{name}");
    quote! {
        impl ::millstream::record::Record for #name {
            type View = #view;

            fn shape(_: ::core::option::Option<usize>) -> ::millstream::record::RecordShape {
                ::millstream::record::RecordShape::Sized
            }

            fn with_bytes<R>(
                &self,
                scratch: &mut ::millstream::record::Scratch,
                write: impl FnOnce(&[u8]) -> R,
            ) -> ::core::result::Result<R, ::millstream::record::RecordError> {
                ::millstream::record::archived::with_bytes(self, scratch, write)
            }

            fn view(bytes: &[u8]) -> ::core::result::Result<&#view, ::millstream::record::RecordError> {
                ::millstream::record::archived::view(bytes)
            }
        }

        impl ::millstream::record::Schema for #view {
            fn schema(out: &mut ::millstream::record::SchemaText) {
                <#name as ::millstream::record::Schema>::schema(out);
            }
        }

        impl ::millstream::record::Record for #view {
            type View = #view;

            fn shape(_: ::core::option::Option<usize>) -> ::millstream::record::RecordShape {
                ::millstream::record::RecordShape::Sized
            }

            fn with_bytes<R>(
                &self,
                scratch: &mut ::millstream::record::Scratch,
                write: impl FnOnce(&[u8]) -> R,
            ) -> ::core::result::Result<R, ::millstream::record::RecordError> {
                let value = ::millstream::record::archived::deserialize::<#name>(self)?;
                ::millstream::record::archived::with_bytes(&value, scratch, write)
            }

            fn view(bytes: &[u8]) -> ::core::result::Result<&#view, ::millstream::record::RecordError> {
                ::millstream::record::archived::view(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn refusal(of: &DeriveInput) -> String {
        expand(of).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_a_record_is_refused_with_what_to_change() {
        let without_repr = parse_quote! { struct Payment { cents: i64 } };
        assert!(refusal(&without_repr).starts_with("`Payment` needs `#[repr(C)]`"));
        let an_enum = parse_quote! { #[repr(C)] enum Kind { Debit, Credit } };
        assert!(refusal(&an_enum).contains("use `#[record(archived)]`"));
        let generic = parse_quote! { #[repr(C)] struct Of<T> { value: T } };
        assert!(refusal(&generic).starts_with("a record cannot be generic"));
        let unknown = parse_quote! { #[record(packed)] struct Payment { cents: i64 } };
        assert!(refusal(&unknown).contains("the only option is `#[record(archived)]`"));
        let a_union = parse_quote! { union Bits { whole: u64, half: u32 } };
        assert!(schema(&a_union).unwrap_err().to_string().contains("use an enum"));
    }

    #[test]
    fn the_schema_names_fields_and_types_in_their_order() {
        let written = schema(&parse_quote! { struct Payment { card: u64, cents: i64 } }).unwrap().to_string();
        assert!(written.find("\"card\"") < written.find("\"cents\""), "{written}");
        let numbered = schema(&parse_quote! { struct Pair(u64, i64); }).unwrap().to_string();
        assert!(numbered.find("\"0\"") < numbered.find("\"1\""), "{numbered}");
    }
}
