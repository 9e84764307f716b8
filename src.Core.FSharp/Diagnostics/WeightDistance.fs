/// How far weights have moved from where they started.
namespace Hybrid

open TorchSharp

/// Some weights w beside their start w₀.
type WeightChange =
    {
        /// What the parameters are for, as `ParameterGroups` has it; "embedding, new rows" for rows that the start has not
        Group: string
        /// The layer, counted from 0; −1 where they belong to none or to several
        Layer: int
        /// Numbers in the parameters
        Parameters: int64
        /// ‖w − w₀‖ / ‖w₀‖; nan without a start
        Distance: float
        /// The cosine between w and w₀; nan without a start
        Cosine: float
        /// ‖w‖
        Norm: float
        /// ‖w₀‖; nan without a start
        StartNorm: float
    }

/// Weights beside their start.
type WeightChanges =
    {
        /// All parameters that have a start
        Whole: WeightChange
        /// By group, from the embedding to the head; new rows apart
        Groups: WeightChange[]
        /// By layer: attention, feed-forward layer and norms together
        Layers: WeightChange[]
    }

/// How far weights have moved from where they started.
module WeightDistance =

    /// Pieces of a table of which the start has the first rows only: each piece's old rows, and all new rows as one.
    let private cut (old: int64) (spec: ParameterSpec) (pieces: ParameterPiece list) : ParameterPiece list =
        let rows = spec.Shape.Head
        let kept = pieces |> List.filter (fun piece -> piece.FirstRow < old)

        [
            for piece in kept do
                { piece with Rows = min piece.Rows (old - piece.FirstRow) }

            if rows > old then
                let name = if spec.Name = "output.weight" then "head" else "embedding"

                { pieces.Head with Group = $"{name}, new rows"; FirstRow = old; Rows = rows - old }
        ]

    // The vectors are w, w₀ and w − w₀.
    let private change (hasStart: bool) (group: string) (layer: int) (p: Gram) : WeightChange =
        let ifStart value = if hasStart then value else nan

        {
            Group = group
            Layer = layer
            Parameters = p.Count
            Distance = ifStart (if p.Norm 1 > 0.0 then p.Norm 2 / p.Norm 1 else nan)
            Cosine = ifStart (p.Cosine(0, 1))
            Norm = p.Norm 0
            StartNorm = ifStart (p.Norm 1)
        }

    /// The inner products of w, w₀ and w − w₀, whose difference is taken in double precision; the caller owns them.
    let private compare (w: torch.Tensor) (w0: torch.Tensor) : torch.Tensor =
        ParameterGroups.gram w.shape[0] (fun start count ->
            let part (x: torch.Tensor) = x.narrow(0L, start, count).``to`` torch.float64
            let a, b = part w, part w0
            [ a; b; a.sub b ])

    /// Pieces of a parameter, whether each has a start, and its inner products with it; the caller owns these.
    let private measure
        (vocabulary: Vocabulary)
        (start: string -> torch.Tensor)
        (current: string -> torch.Tensor)
        (spec: ParameterSpec)
        : (ParameterPiece * bool * (int64 * torch.Tensor)) list =
        use _ = torch.NewDisposeScope()
        use now: torch.Tensor = current spec.Name
        use before: torch.Tensor = start spec.Name
        Shape.require spec.Name spec.Shape now
        let there = before.shape

        let old =
            if ParameterName.isTable spec.Name && there.Length = 2 && there[0] <= spec.Shape.Head && there[1] = spec.Shape[1] then
                there[0]
            else
                Shape.require $"the start of {spec.Name}" spec.Shape before
                spec.Shape.Head

        let w, w0 = now.flatten (), before.flatten().``to`` now.device

        [
            for piece in cut old spec (ParameterGroups.pieces vocabulary spec) do
                let part = ParameterGroups.slice w 0L piece
                let hasStart = piece.FirstRow < old
                let other = if hasStart then ParameterGroups.slice w0 0L piece else part
                piece, hasStart, (piece.Count, (compare part other).MoveToOuterDisposeScope())
        ]

    /// Weights beside their start, both as any tensors by name; each is released when it is compared. The start may have fewer rows of
    /// embedding table and head: its rows are compared with the first rows, and the new rows have a norm only. Where the start itself
    /// is 0 there is no relative distance: nan. Errors: ShapeException for a start of another shape.
    let between
        (vocabulary: Vocabulary)
        (specs: ParameterSpec list)
        (start: string -> torch.Tensor)
        (current: string -> torch.Tensor)
        : WeightChanges =
        use _ = torch.no_grad ()
        use _ = torch.NewDisposeScope()
        let measured = specs |> List.collect (measure vocabulary start current)
        let products = ParameterGroups.read [ for _, _, sums in measured -> sums ]
        let pieces = [ for piece, _, _ in measured -> piece ]

        let started =
            [
                for piece, hasStart, _ in measured do
                    if hasStart then
                        piece.Group
            ]
            |> Set.ofList

        let withStart =
            List.zip measured products
            |> List.choose (fun ((piece, hasStart, _), p) -> if hasStart then Some(piece, p) else None)

        {
            Whole = change true "all" -1 (ParameterGroups.total (List.map snd withStart))
            Groups =
                ParameterGroups.sums pieces products
                |> List.map (fun (group, layer, sum) -> change (started.Contains group) group layer sum)
                |> List.toArray
            Layers =
                withStart
                |> List.filter (fun (piece, _) -> piece.Layer >= 0)
                |> List.groupBy (fun (piece, _) -> piece.Layer)
                |> List.map (fun (layer, members) ->
                    change true $"layer {layer}" layer (ParameterGroups.total (List.map snd members)))
                |> List.toArray
        }
