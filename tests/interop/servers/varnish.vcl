# varnish, which answers by itself, where yours has a backend.
vcl 4.0;

backend nobody {
    .host = "127.0.0.1";
    .port = "1";
}

sub vcl_recv {
    return (synth(200, "@ANSWER@"));
}

sub vcl_synth {
    set resp.body = "@ANSWER@";
    return (deliver);
}
