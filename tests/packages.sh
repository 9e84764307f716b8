#!/usr/bin/env bash
# Packs the built tree, and uses the packages as somebody would who has nothing else: the tool in an empty folder, a project that
# references the library, every script of docs/scripts. Build first (any of the README's commands does). Takes the platform's own
# libtorch from nuget.org where the package cache has none.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1
version=$(sed -n 's|.*<Version>\(.*\)</Version>.*|\1|p' "$root/Directory.Build.props")
case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) libtorch=libtorch-cpu-linux-x64 ;;
    Darwin-arm64) libtorch=libtorch-cpu-osx-arm64 ;;
    *) echo "no libtorch package is known for $(uname -s) on $(uname -m)"; exit 1 ;;
esac
torch_version=$(sed -n "s|.*$libtorch (\([0-9.]*\)).*|\1|p" "$root/paket.lock")

echo "-- packing"
for project in src.Core.FSharp src.Runner.CSharp; do
    dotnet pack "$root/$project" -c Release --no-build -o "$work/feed" > "$work/pack.log" 2>&1 || { cat "$work/pack.log"; exit 1; }
done
for package in Hybrid Hybrid.Core Hybrid.Runner; do
    file="$work/feed/$package.$version.nupkg"
    for inside in README.md LICENSE; do
        # A zip names its files in plain bytes.
        grep -aq "$inside" "$file" || { echo "$package.$version.nupkg has no $inside"; exit 1; }
    done
done

# Packages of this tree go to a cache of their own; all others are taken from the user's.
if [ -d "${NUGET_PACKAGES:-$HOME/.nuget/packages}/hybrid.core/$version" ]; then
    echo "The package cache has a Hybrid.Core $version, which would be used in the place of this tree's: dotnet nuget locals global-packages --clear"
    exit 1
fi
export NUGET_FALLBACK_PACKAGES="${NUGET_PACKAGES:-$HOME/.nuget/packages}" NUGET_PACKAGES="$work/packages" DOTNET_CLI_HOME="$work/home"
cat > "$work/nuget.config" << 'XML'
<configuration>
  <packageSources><add key="tree" value="feed" /></packageSources>
</configuration>
XML

echo "-- the tool, in an empty folder"
mkdir "$work/empty"
cd "$work/empty"
dotnet new tool-manifest > "$work/tool.log" && dotnet tool install Hybrid --version "$version" >> "$work/tool.log" || { cat "$work/tool.log"; exit 1; }
dotnet hybrid --version | grep -q "$version"
dotnet hybrid doctor
dotnet hybrid generate --help | grep -q "hybrid generate"
dotnet hybrid study --preset smoke --dry-run > "$work/dry.log"

echo "-- a project that references the library"
mkdir "$work/project"
cd "$work/project"
cat > project.csproj << XML
<Project Sdk="Microsoft.NET.Sdk">
  <PropertyGroup><OutputType>Exe</OutputType><TargetFramework>net10.0</TargetFramework></PropertyGroup>
  <ItemGroup>
    <PackageReference Include="Hybrid.Core" Version="$version" />
    <PackageReference Include="$libtorch" Version="$torch_version" />
  </ItemGroup>
</Project>
XML
cat > Program.cs << 'CS'
using Hybrid;
using Hybrid.Api;

Vocabulary vocabulary = new(textRows: 100, imageCodes: 64);
ModelConfig config = Descriptions.OpenLm("here", """{ "hidden_dim": 32, "n_layers": 2, "n_heads": 4, "seq_len": 64, "vocab_size": 171, "post_embed_norm": false, "weight_tying": false }""");
using Model model = Model.Random(config, vocabulary, new Layout(), seed: 1);
System.Console.WriteLine($"{model.ParameterCount} parameters");
CS
dotnet run -c Release 2>&1 | tee "$work/project.log"
grep -q "parameters" "$work/project.log"

echo "-- the scripts, from the packages"
mkdir "$work/scripts"
for script in "$root"/docs/scripts/*.fsx; do
    name=$(basename "$script")
    {
        echo "#i \"nuget: $work/feed\""
        echo "#r \"nuget: Hybrid.Runner, $version\""
        echo "#r \"nuget: $libtorch, $torch_version\""
        echo "Hybrid.Runner.TorchLibrary.Load()"
        grep -v '^#r ' "$script"
    } > "$work/scripts/$name"
    began=$SECONDS
    dotnet fsi --quiet "$work/scripts/$name" > "$work/scripts/$name.log" 2>&1 || { cat "$work/scripts/$name.log"; echo "$name does not run from the packages"; exit 1; }
    echo "$name: $(grep -c . "$work/scripts/$name.log") lines in $((SECONDS - began)) s"
done
