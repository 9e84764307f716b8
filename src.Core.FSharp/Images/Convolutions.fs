namespace Hybrid

open TorchSharp

/// A normalisation as a block uses it: weights, name, map [B, C, H, W] -> map of the same shape.
type internal MapNorm = Weights -> string -> torch.Tensor -> torch.Tensor

/// What VQ-GANs are built of. Weights decide the precision: each layer computes in the type of its own weights.
/// Axes: B pictures · C channels · H, W pixels of a map · N positions · h, w grid of codes.
module internal Convolutions =

    /// The epsilon of every group norm.
    let private epsilon = 1e-6

    /// f x, freeing x and what f makes on the way: the maps of a large picture do not pile up.
    let next (f: torch.Tensor -> torch.Tensor) (x: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let y = scope.MoveToOuter(f x)
        x.Dispose()
        y

    /// The same map with its channels innermost in memory, which the processor's convolutions are fastest on; what is made of it keeps to
    /// that.
    let channelsLast (x: torch.Tensor) : torch.Tensor = x.permute(0L, 2L, 3L, 1L).contiguous().permute(0L, 3L, 1L, 2L)

    /// The parameters of a convolution, which start as torch's do: uniform within 1/√fan-in.
    let parameters (name: string) (kernel: int64) (input: int64) (output: int64) : ParameterSpec list =
        let start = Uniform(1.0 / sqrt (float (input * kernel * kernel)))

        [
            { Name = name + ".weight"; Shape = [ output; input; kernel; kernel ]; Init = start }
            { Name = name + ".bias"; Shape = [ output ]; Init = start }
        ]

    let private inTypeOf (weight: torch.Tensor) (x: torch.Tensor) = if x.dtype = weight.dtype then x else x.``to`` weight.dtype

    let private strided (stride: int64) (padding: int64) (weights: Weights) (name: string) (x: torch.Tensor) =
        let weight = weights (name + ".weight")

        torch.nn.functional.conv2d (
            inTypeOf weight x,
            weight,
            weights (name + ".bias"),
            [| stride; stride |],
            [| padding; padding |]
        )

    let conv1 (weights: Weights) (name: string) (x: torch.Tensor) : torch.Tensor = strided 1L 0L weights name x
    let conv3 (weights: Weights) (name: string) (x: torch.Tensor) : torch.Tensor = strided 1L 1L weights name x

    /// Half the height and width: by a 3×3 convolution of the map with a row and a column of zeros behind it and none before it, or by
    /// the mean of four.
    let halve (convolution: bool) (weights: Weights) (name: string) (x: torch.Tensor) : torch.Tensor =
        if convolution then
            torch.nn.functional.pad (x, [| 0L; 1L; 0L; 1L |]) |> next (strided 2L 0L weights (name + ".conv"))
        else
            torch.nn.functional.avg_pool2d (x, 2L, 2L)

    /// Twice the height and width, each value four times, and a 3×3 convolution unless there is none.
    let double (convolution: bool) (weights: Weights) (name: string) (x: torch.Tensor) : torch.Tensor =
        let size = [| 2L * x.shape[2]; 2L * x.shape[3] |]
        let doubled = torch.nn.functional.interpolate (x, size = size, mode = torch.InterpolationMode.Nearest)
        if convolution then doubled |> next (conv3 weights (name + ".conv")) else doubled

    /// A group norm with its own scale and shift.
    let groupNorm (groups: int64) : MapNorm =
        fun weights name x ->
            torch.nn.functional.group_norm (x, groups, weights (name + ".weight"), weights (name + ".bias"), epsilon)

    /// A group norm scaled and shifted, position by position, by 1×1 convolutions of the quantised map [B, Z, h, w]. Stretching that
    /// map to the norm's size, which is a multiple of its own, repeats values; here they are repeated by broadcasting alone.
    let spatialNorm (groups: int64) (quantised_BZhw: torch.Tensor) : MapNorm =
        fun weights name x ->
            use scope = torch.NewDisposeScope()
            let shape, rows, columns = x.shape, quantised_BZhw.shape[2], quantised_BZhw.shape[3]

            let blocks_BChrwr = [| shape[0]; shape[1]; rows; shape[2] / rows; columns; shape[3] / columns |]

            let modulation part = (conv1 weights $"{name}.{part}" quantised_BZhw).unsqueeze(3L).unsqueeze(5L)

            groupNorm groups weights (name + ".norm_layer") x
            |> next (fun normed -> normed.view (blocks_BChrwr) * modulation "conv_y")
            |> next (fun scaled -> scaled.plus (modulation "conv_b"))
            |> _.reshape(shape)
            |> scope.MoveToOuter

    /// A residual block: twice norm, SiLU and 3×3 convolution, beside the map itself or a 1×1 convolution of it.
    let block (norm: MapNorm) (weights: Weights) (shortcut: bool) (name: string) (x: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()

        let h =
            norm weights (name + ".norm1") x
            |> next _.silu()
            |> next (conv3 weights (name + ".conv1"))
            |> next (norm weights (name + ".norm2"))
            |> next _.silu()
            |> next (conv3 weights (name + ".conv2"))

        let kept = if shortcut then conv1 weights (name + ".nin_shortcut") x else x
        scope.MoveToOuter(kept.plus h)

    /// One head of attention over all positions, beside the map itself.
    let attention (norm: MapNorm) (weights: Weights) (name: string) (x: torch.Tensor) : torch.Tensor =
        use scope = torch.NewDisposeScope()
        let shape = x.shape
        let h = norm weights (name + ".norm") x

        // Torch takes its kernel without an N × N matrix only for rows that lie together.
        let part (part: string) =
            use inner = torch.NewDisposeScope()

            (conv1 weights $"{name}.{part}" h).flatten(2L).transpose(1L, 2L).unsqueeze(1L).contiguous()
            |> inner.MoveToOuter

        let mixed_B1NC = torch.nn.functional.scaled_dot_product_attention (part "q", part "k", part "v")

        x.plus (mixed_B1NC.squeeze(1L).transpose(1L, 2L).reshape shape |> conv1 weights (name + ".proj_out"))
        |> scope.MoveToOuter

    /// Vectors of length 1 along an axis; zero stays zero.
    let unit (axis: int64) (x: torch.Tensor) : torch.Tensor = torch.nn.functional.normalize (x, 2.0, axis, 1e-12)
