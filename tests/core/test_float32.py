"""TensorFloat-32 is off inside, and everything as it was outside: whatever the user set, nested, and in threads."""

from __future__ import annotations

import threading

import pytest
import torch

from fiftyone_cam.core.float32 import ieee_float32

CONVOLUTION, PRODUCT = torch.backends.cudnn.conv, torch.backends.cuda.matmul


def state() -> tuple[str, str]:
    return CONVOLUTION.fp32_precision, PRODUCT.fp32_precision


@pytest.fixture(params=["as PyTorch comes", "none at all", "everywhere"])
def before(request):
    convolution, product = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    if request.param != "as PyTorch comes":
        torch.backends.cudnn.allow_tf32 = request.param == "everywhere"
        torch.set_float32_matmul_precision("high" if request.param == "everywhere" else "highest")
    yield state()
    assert torch.backends.cudnn.allow_tf32 == (request.param != "none at all")  # by the older name, too
    torch.backends.cudnn.allow_tf32 = convolution
    torch.set_float32_matmul_precision(product)


def test_inside_products_are_ieee_and_outside_as_the_user_set_them(before):
    with ieee_float32():
        assert state() == ("ieee", "ieee")
        with pytest.raises(ZeroDivisionError), ieee_float32():
            raise ZeroDivisionError
        assert state() == ("ieee", "ieee")
    assert state() == before


def test_the_last_thread_that_leaves_brings_it_back(before):
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with ieee_float32():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with ieee_float32():
        thread.start()
        assert entered.wait(60)
    assert state() == ("ieee", "ieee")
    leave.set()
    thread.join()
    assert state() == before
