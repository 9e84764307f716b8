/// Which parameters move: the paper's configurations (Fig. 6) and one more.
module Hybrid.Trainable

/// A choice of moving parameters. The paper's four frozen ones each add to the one before.
type Preset =
    /// Every parameter
    | All
    /// Embedding table and head
    | EmbeddingHead
    /// + layer norms and learned positions (rotary positions have no parameters)
    | PlusNorms
    /// + all of the first half of the layers
    | PlusFirstHalf
    /// + the feed-forward layers of the other half
    | PlusFeedForward
    /// Only the rows that the extension added, in embedding table and head
    | NewRowsOnly

/// Every preset with its name on the command line.
let presets: (string * Preset) list =
    [
        "all", All
        "embedding-head", EmbeddingHead
        "+norms", PlusNorms
        "+first-half", PlusFirstHalf
        "+ffn", PlusFeedForward
        "new-rows", NewRowsOnly
    ]

/// A preset's name.
let name (preset: Preset) : string = JsonForm.nameIn presets preset

let private isNorm (name: string) = name.Contains "norm."

let private isPosition (name: string) = name = "pos_embeddings.weight"

let private isNormOrPosition (name: string) = isNorm name || isPosition name

let private isFeedForward (name: string) = name.Contains ".feed_forward." || name.Contains "._ff_w"

/// How each parameter moves under a preset; `oldRows` is the size of the pre-trained table.
let movement (config: ModelConfig) (oldRows: int) (preset: Preset) (spec: ParameterSpec) : Movement =
    let block = ParameterName.block spec.Name
    let inFirstHalf = block >= 0 && block < config.Layers / 2

    let moves =
        match preset with
        | All -> true
        | EmbeddingHead -> ParameterName.isTable spec.Name
        | PlusNorms -> ParameterName.isTable spec.Name || isNormOrPosition spec.Name
        | PlusFirstHalf -> ParameterName.isTable spec.Name || isNormOrPosition spec.Name || inFirstHalf
        | PlusFeedForward ->
            ParameterName.isTable spec.Name || isNormOrPosition spec.Name || inFirstHalf || isFeedForward spec.Name
        | NewRowsOnly -> ParameterName.isTable spec.Name

    if not moves then Stays
    elif preset = NewRowsOnly then MovesFromRow(int64 oldRows)
    else Moves

/// What moves, for a person: groups with their counts, and the share of all parameters.
let describe (config: ModelConfig) (oldRows: int) (preset: Preset) : string =
    let count (spec: ParameterSpec) : int64 = Parameters.movingOf spec (movement config oldRows preset spec)

    let group (spec: ParameterSpec) =
        if ParameterName.isTable spec.Name then "embedding and head"
        elif isNorm spec.Name then "norms"
        elif isPosition spec.Name then "positions"
        elif isFeedForward spec.Name then "feed-forward"
        else "attention"

    let specs: ParameterSpec list = Decoder.parameters config

    let parts =
        specs
        |> List.groupBy group
        |> List.map (fun (group, members) -> group, List.sumBy count members)
        |> List.filter (fun (_, moving) -> moving > 0L)
        |> List.map (fun (group, moving) -> $"{group} {moving:N0}")

    let positions =
        match preset with
        | PlusNorms
        | PlusFirstHalf
        | PlusFeedForward when config.Position <> LearnedPosition -> "; positional parameters 0 (the positions are not learned)"
        | _ -> ""

    let moving, all = List.sumBy count specs, specs |> List.sumBy (fun spec -> spec.Count)
    let share = 100.0 * float moving / float all
    let listed = String.concat ", " parts
    $"{name preset}: {moving:N0} of {all:N0} parameters move ({share:F1} %%): {listed}{positions}"
