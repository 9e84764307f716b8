namespace Hybrid

open System
open System.Text.RegularExpressions

/// Whose names a file of a VQ-GAN has.
type VqGanNames =
    /// taming-transformers', which MoVQGAN and this library share.
    | TamingNames
    /// diffusers' VQModel.
    | DiffusersNames
    /// LlamaGen's.
    | LlamaGenNames

/// An entry of a file under the name that this library knows it by.
type TokenizerEntry =
    {
        /// The library's name.
        Name: string
        /// Its name in the file.
        Source: string
        /// Its shape under the library's name: the same elements in the same order as in the file.
        Shape: int64[]
    }

/// The names of an image tokenizer's entries, whoever wrote the file: pure functions from entries to entries.
module TokenizerNames =

    /// A rule: an expression that a whole name must match, and what it becomes. Numbers of the decoder's levels that count from the grid
    /// stand as $up.
    let private rule (pattern: string) (replacement: string) =
        Regex("^" + pattern + "$", RegexOptions.NonBacktracking), replacement

    let private diffusersRules =
        [
            rule @"(encoder|decoder)\.conv_norm_out\.(.+)" "$1.norm_out.$2"
            rule @"encoder\.down_blocks\.(\d+)\.resnets\.(.+)" "encoder.down.$1.block.$2"
            rule @"encoder\.down_blocks\.(\d+)\.attentions\.(.+)" "encoder.down.$1.attn.$2"
            rule @"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.(.+)" "encoder.down.$1.downsample.$2"
            rule @"decoder\.up_blocks\.(\d+)\.resnets\.(.+)" "decoder.up.<$1>.block.$2"
            rule @"decoder\.up_blocks\.(\d+)\.attentions\.(.+)" "decoder.up.<$1>.attn.$2"
            rule @"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.(.+)" "decoder.up.<$1>.upsample.$2"
            rule @"(encoder|decoder)\.mid_block\.resnets\.0\.(.+)" "$1.mid.block_1.$2"
            rule @"(encoder|decoder)\.mid_block\.resnets\.1\.(.+)" "$1.mid.block_2.$2"
            rule @"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)" "$1.mid.attn_1.$2"
        ]

    // What stands behind the block's own name. Before 2023 diffusers called the projections query, key, value and proj_attn.
    let private diffusersParts =
        [
            rule @"(.+)\.conv_shortcut\.(weight|bias)" "$1.nin_shortcut.$2"
            rule @"(.+\.attn(?:_1|\.\d+))\.(?:to_q|query)\.(weight|bias)" "$1.q.$2"
            rule @"(.+\.attn(?:_1|\.\d+))\.(?:to_k|key)\.(weight|bias)" "$1.k.$2"
            rule @"(.+\.attn(?:_1|\.\d+))\.(?:to_v|value)\.(weight|bias)" "$1.v.$2"
            rule @"(.+\.attn(?:_1|\.\d+))\.(?:to_out\.0|proj_attn)\.(weight|bias)" "$1.proj_out.$2"
            rule @"(.+\.attn(?:_1|\.\d+))\.(?:group_norm|spatial_norm)\.(.+)" "$1.norm.$2"
        ]

    let private llamaGenRules =
        [
            rule @"encoder\.conv_blocks\.(\d+)\.res\.(.+)" "encoder.down.$1.block.$2"
            rule @"encoder\.conv_blocks\.(\d+)\.attn\.(.+)" "encoder.down.$1.attn.$2"
            rule @"encoder\.conv_blocks\.(\d+)\.downsample\.(.+)" "encoder.down.$1.downsample.$2"
            rule @"decoder\.conv_blocks\.(\d+)\.res\.(.+)" "decoder.up.<$1>.block.$2"
            rule @"decoder\.conv_blocks\.(\d+)\.attn\.(.+)" "decoder.up.<$1>.attn.$2"
            rule @"decoder\.conv_blocks\.(\d+)\.upsample\.(.+)" "decoder.up.<$1>.upsample.$2"
            rule @"(encoder|decoder)\.mid\.0\.(.+)" "$1.mid.block_1.$2"
            rule @"(encoder|decoder)\.mid\.1\.(.+)" "$1.mid.attn_1.$2"
            rule @"(encoder|decoder)\.mid\.2\.(.+)" "$1.mid.block_2.$2"
        ]

    let private apply (rules: (Regex * string) list) (name: string) =
        match rules |> List.tryFind (fun (pattern, _) -> pattern.IsMatch name) with
        | Some(pattern, replacement) -> pattern.Replace(name, replacement)
        | None -> name

    let private counted = Regex(@"<(\d+)>", RegexOptions.NonBacktracking)
    let private upLevel = Regex(@"^decoder\.(?:up_blocks|conv_blocks)\.(\d{1,6})\.", RegexOptions.NonBacktracking)
    let private projection = Regex(@"\.attn(?:_1|\.\d+)\.(?:q|k|v|proj_out)\.weight$", RegexOptions.NonBacktracking)

    /// The decoder's levels count from the picture here and from the grid in the other two.
    let private turned (levels: int) (name: string) =
        counted.Replace(
            name,
            fun found ->
                match Int32.TryParse found.Groups[1].Value with
                | true, level when level < levels -> string (levels - 1 - level)
                | _ -> "?" + found.Groups[1].Value
        )

    /// Whose names these are.
    let kind (names: string seq) : VqGanNames =
        let any (part: string) =
            names
            |> Seq.exists (fun name ->
                (name.StartsWith("encoder.", StringComparison.Ordinal) || name.StartsWith("decoder.", StringComparison.Ordinal))
                && name.Contains part)

        if any ".down_blocks." || any ".up_blocks." || any ".mid_block." then DiffusersNames
        elif any ".conv_blocks." then LlamaGenNames
        else TamingNames

    /// The part of a file that is the tokenizer: where `encoder.conv_in.weight` stands under exactly one prefix, such as
    /// `first_stage_model.`, the entries with that prefix, without it; else all.
    let private unwrapped (entries: (string * int64[]) list) =
        let first = "encoder.conv_in.weight"

        let prefixes =
            entries
            |> List.choose (fun (name, _) ->
                if name = first then
                    Some ""
                elif name.EndsWith("." + first, StringComparison.Ordinal) then
                    Some name[.. name.Length - first.Length - 1]
                else
                    None)

        match prefixes with
        | [ prefix ] when prefix <> "" ->
            [
                for source, shape in entries do
                    if source.StartsWith(prefix, StringComparison.Ordinal) then
                        { Name = source[prefix.Length ..]; Source = source; Shape = shape }
            ]
        | _ -> [ for source, shape in entries -> { Name = source; Source = source; Shape = shape } ]

    /// A file's entries under the library's names. Entries of no tokenizer keep theirs.
    /// Errors: a text, where two entries would have one name.
    let canonical (entries: (string * int64[]) seq) : Result<VqGanNames * TokenizerEntry list, string> =
        let entries = unwrapped (List.ofSeq entries)
        let kind = kind (entries |> Seq.map _.Name)

        let levels =
            entries
            |> Seq.choose (fun entry ->
                let found = upLevel.Match entry.Name
                if found.Success then Some(int found.Groups[1].Value) else None)
            |> Seq.distinct
            |> Seq.length

        let rename =
            match kind with
            | TamingNames -> id
            | DiffusersNames -> apply diffusersRules >> turned levels >> apply diffusersParts
            | LlamaGenNames -> apply llamaGenRules >> turned levels

        let named =
            entries
            |> List.map (fun entry ->
                let name = rename entry.Name
                // A linear layer over channels is a 1×1 convolution.
                let linear = entry.Shape.Length = 2 && projection.IsMatch name

                { entry with
                    Name = name
                    Shape = if linear then Array.append entry.Shape [| 1L; 1L |] else entry.Shape
                })

        match named |> List.countBy _.Name |> List.tryFind (fun (_, count) -> count > 1) with
        | Some(name, _) ->
            let sources = named |> List.filter (fun entry -> entry.Name = name) |> List.map (fun entry -> $"'{entry.Source}'")
            Error $"""the entries {String.Join(" and ", sources)} are one and the same parameter '{name}'."""
        | None -> Ok(kind, named)

    /// The modules of which MoVQGAN's trainer keeps moving averages, each in a module of its own.
    let private averaged = [ "encoder"; "decoder"; "quantize"; "quant_conv"; "post_quant_conv" ]

    /// The same entries, taken from the moving averages (EMA) of the trainer where it keeps one: `ema_encoder.…` and so on (MoVQGAN),
    /// or `model_ema.…` (latent diffusion), each with the parameter's name without its dots. A codebook that is itself a moving average
    /// has none and stays. Errors: a text, where there are no averages, or some are missing or misshaped.
    let averages (entries: (string * int64[]) seq) (named: TokenizerEntry list) : Result<TokenizerEntry list, string> =
        let shapes = dict entries
        let bare (name: string) = name.Replace(".", "")

        let copyOf (entry: TokenizerEntry) =
            averaged
            |> List.tryFind (fun part -> entry.Name.StartsWith(part + ".", StringComparison.Ordinal))
            |> Option.map (fun part ->
                let prefix = entry.Source[.. entry.Source.Length - entry.Name.Length - 1]
                let own = $"{prefix}ema_{part}.{bare entry.Name[part.Length + 1 ..]}"
                let whole = $"{prefix}model_ema.{bare entry.Name}"
                part, [ own; whole ] |> List.tryFind shapes.ContainsKey)

        let copies = named |> List.map (fun entry -> entry, copyOf entry)

        if copies |> List.forall (fun (_, copy) -> copy |> Option.bind snd |> Option.isNone) then
            Error "it keeps no moving averages of its parameters ('ema_encoder.…' or 'model_ema.…'); leave --ema out."
        else
            let faults =
                [
                    for entry, copy in copies do
                        match copy with
                        | Some(_, Some source) when
                            shapes[source].Length <> entry.Shape.Length || Seq.exists2 (<>) shapes[source] entry.Shape
                            ->
                            $"the moving average '{source}' has shape {Shape.show shapes[source]} and '{entry.Name}' has {Shape.show entry.Shape}"
                        | Some(part, None) when part <> "quantize" -> $"'{entry.Name}' has no moving average"
                        | _ -> ()
                ]

            if faults.IsEmpty then
                Ok
                    [
                        for entry, copy in copies do
                            match copy with
                            | Some(_, Some source) -> { entry with Source = source }
                            | _ -> entry
                    ]
            else
                Error(String.Join("; ", faults) + ".")
